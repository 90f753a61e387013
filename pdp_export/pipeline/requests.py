"""Turns the recipe into one conversion request per target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdp_export.converters import registry
from pdp_export.pipeline import environment
from pdp_export.targets import ConvertRequest, Target
from pdp_export.tasks import preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from torch.export import ExportedProgram

    from pdp_export.recipe import Recipe, TargetSection


def request_for(
    recipe: Recipe, section: TargetSection, *, role: str = "pruned", calibration: Path | None = None
) -> ConvertRequest:
    """Return the request for one target.

    Role "dense" is the file that the pruned one is compared with: encoding "dense", and fp32 where the pruned file is
    int8, so that accuracy, size and latency stand beside those of the float model.
    """
    target = registry.load(section.name).TARGET
    dense = role == "dense"
    precision = section.precision or target.precisions[0]
    if dense and precision == "int8":
        precision, calibration = "fp32", None
    return ConvertRequest(
        inputs=tuple(item.spec() for item in recipe.inputs),
        outputs=recipe.outputs,
        precision=precision,
        encoding="dense" if dense else section.encoding,
        metadata=preprocessing.metadata(recipe, environment.tool_version()),
        options=dict(section.options),
        calibration=str(calibration) if calibration else None,
    )


def check_targets(recipe: Recipe, program: ExportedProgram) -> None:
    """Let every converter refuse `program`, the captured dense model, and its request before any training.

    Raises:
        PdpExportError: whatever a converter would raise after it.
    """
    for section in recipe.targets:
        registry.load(section.name).check(program, request_for(recipe, section), recipe.pruning.structure)


def tolerance_for(recipe: Recipe, section: TargetSection, target: Target) -> float:
    """Return the parity tolerance, relative to max|y|: the target's own key, the gate, or the converter's default."""
    precision = section.precision or target.precisions[0]
    return section.atol or recipe.gates.atol or target.tolerance(precision, section.encoding)
