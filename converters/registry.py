"""Which converters exist, loaded on first use."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pdp_export.errors import UsageError, near_misses
from pdp_export.targets import ConvertRequest, Target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MODULES = {
    "onnx": "pdp_export.converters.onnx_export",
    "coreml": "pdp_export.converters.coreml_export",
    "litert": "pdp_export.converters.litert_export",
    "mnn": "pdp_export.converters.mnn_export",
}


class Converter(Protocol):
    """What the module of a target offers. Importing it must be cheap: heavy libraries load inside `convert`."""

    TARGET: Target

    def check(self, program: ExportedProgram, request: ConvertRequest, pattern: str) -> None:
        """Raise now what `convert` would raise after training, and import nothing heavy for it.

        Args:
            program: The dense program before training (``run_decompositions({})``): weights are random or not even
                initialised, BatchNorm is not folded.
            request: What `convert` will be asked for.
            pattern: "unstructured" or "channel"; the latter leaves no zeros that a sparse encoding could use.

        Raises:
            UsageError: for an option, precision or encoding that the target does not have or cannot use.
            ConversionError: for an operator, name, type or axis that the target is known not to express.
        """

    def convert(self, program: ExportedProgram, path: Path, request: ConvertRequest) -> None:
        """Write `program` to `path` (a file, or a directory for a package).

        The program is functional (``run_decompositions({})``), float32, in inference mode, with
        BatchNorm folded. Zeros in its weights are kept bit by bit.

        Raises:
            ConversionError: naming the operator or layer that this target cannot express.
        """


def load(name: str) -> Converter:
    """Return the converter module of a target.

    Raises:
        UsageError: for an unknown target, with the known names and near misses.
    """
    if name not in MODULES:
        raise UsageError(
            f"unknown target {name!r}{near_misses(name, MODULES)}",
            where="targets",
            hint=f"use one of: {', '.join(MODULES)}",
        )
    return cast(Converter, import_module(MODULES[name]))
