"""What a target is: data that a converter declares and that is checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pydantic import Field

from pdp_export.errors import MissingDependencyError, UsageError, near_misses
from pdp_export.results import Record, TensorSpec


class Effect(Record):
    """Whether a sparsity pattern buys something, and why.

    `expected` is a statement about the mechanism (a smaller encoding exists, a sparse kernel
    exists), never a measured promise; None means "only under the condition in `why`".
    """

    expected: bool | None
    why: str


class Effects(Record):
    """What one pattern buys on one target: bytes on disk, bytes in memory, time."""

    size: Effect
    ram: Effect
    speed: Effect


class Target(Record):
    """One file format and the runtime that opens it.

    `atol` is the default parity tolerance per precision, relative to max|y|; encodings that change values have a wider
    one of their own.
    `channel_alignment` is the block of channel widths that the runtime's kernels like.
    `storage` says, per precision and encoding, what a weight costs: bits for every element and bits
    for every non-zero one; the dry run predicts sizes from it.
    `encodings_elsewhere` are those that users know from this format and get in another way: name to what they can do.
    """

    name: str
    title: str
    suffix: str
    extra: str | None
    modules: tuple[str, ...]
    precisions: tuple[str, ...]
    encodings: tuple[str, ...]
    effects: Mapping[str, Effects]
    atol: Mapping[str, float]
    channel_alignment: int
    storage: Mapping[str, Mapping[str, tuple[float, float]]] = Field(default_factory=dict)
    options: Mapping[str, str] = Field(default_factory=dict)
    encodings_elsewhere: Mapping[str, str] = Field(default_factory=dict)

    def predicted_bits(self, precision: str, encoding: str, zeros: float) -> float | None:
        """Return the expected bits per weight at a share of `zeros`.

        "auto" takes the cheapest encoding that keeps values; others the cheaper of their plain and their sparse form.
        """
        known = self.storage.get(precision, {})
        if encoding == "auto":
            chosen = [cost for name, cost in known.items() if name not in self.atol]
        else:
            chosen = [cost for name, cost in known.items() if name == encoding or name.endswith(f"+{encoding}")]
        return min((every + (1 - zeros) * nonzero for every, nonzero in chosen), default=None)

    def tolerance(self, precision: str, encoding: str) -> float:
        """Return the default parity tolerance, relative to max|y|."""
        return max(self.atol[precision], self.atol.get(encoding, 0.0))

    def require(self) -> None:
        """Raise MissingDependencyError when a package of this target is not installed."""
        absent = [module for module in self.modules if not _installed(module)]
        if absent:
            extra = f"[{self.extra}]" if self.extra else ""
            raise MissingDependencyError(
                f"target {self.name!r} needs {', '.join(absent)}, which is not installed",
                where=f"targets: {self.name}",
                hint=f"pip install 'pdp-export{extra}'",
            )


class ConvertRequest(Record):
    """Everything a converter needs besides the program.

    `metadata` is written into the file (preprocessing, labels, tool version).
    `options` are the target's own, for example ``{"opset": 18}``. `calibration` is a safetensors file of real samples
    by input name, batch first, for precisions that need them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    precision: str = "fp32"
    encoding: str = "auto"
    metadata: Mapping[str, str] = Field(default_factory=dict)
    options: Mapping[str, Any] = Field(default_factory=dict)
    calibration: str | None = None

    def check(self, target: Target) -> None:
        """Raise UsageError for a precision, encoding or option that the target does not have."""
        for kind, value, known in (
            ("precision", self.precision, target.precisions),
            ("encoding", self.encoding, target.encodings),
            *(("option", name, tuple(target.options)) for name in self.options),
        ):
            if value not in known:
                raise UsageError(
                    f"target {target.name!r} has no {kind} {value!r}{near_misses(value, known)}",
                    where=f"targets: {target.name}: {kind}",
                    hint=target.encodings_elsewhere.get(value, f"use one of: {', '.join(known) or '(none)'}"),
                )

    def check_pattern(self, target: Target, pattern: str) -> None:
        """Raise UsageError for a sparse encoding that `pattern` ("unstructured" or "channel") leaves nothing to do."""
        if pattern == "channel" and self.encoding not in ("auto", "dense"):
            raise UsageError(
                f"encoding {self.encoding!r} was asked for, but the pattern 'channel' removes channels and leaves no "
                "zeros to encode: the file will be dense",
                where=f"targets: {target.name}: encoding",
                hint="use encoding: auto, or pattern: unstructured",
            )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # The parent of a dotted name is absent.
        return False
