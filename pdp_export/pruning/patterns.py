"""What may be zero together: the shape of a mask. Each pattern is a small frozen class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pdp_export.errors import UsageError, near_misses

PATTERN_NAMES = ("unstructured", "channel")
_NOT_YET = {"nm": "NM(n, m)", "block": "Block(h, w)"}


@dataclass(frozen=True)
class Unstructured:
    """Any single weight may be zero: the smallest ``|w|`` of each layer are pruned.

    `sparsity` is the share of zeros over all prunable weights together, 0 < sparsity < 1. With
    0.5 on one layer of shape (C_out, C_in) = (2, 4)::

        w    = [[ .9 -.1  .4  .2]       kept = [[ .9  0  .4  0]
                [-.8  .3 -.1 -.7]]              [-.8  0   0 -.7]]

    The four smallest magnitudes (.1 .1 .2 .3) become exact zeros; rows may keep different counts.
    """

    sparsity: float

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)


@dataclass(frozen=True)
class Channel:
    """Whole output channels are zero: one mask value per channel of a group of tied layers.

    `sparsity` is the share of dead channels over all prunable groups together, 0 < sparsity < 1.
    A channel's score is the rms of its filter, averaged over the filters of the group. With 0.5
    and ``align=1`` on a (C_out, C_in) = (4, 2) layer with a bias::

        w = [[ .9 -.1]   rms .64    kept = [[ .9 -.1]    bias = [ .1    kept = [ .1
             [ .2  .1]       .16            [  0   0]             .3             0
             [-.8  .7]       .75            [-.8  .7]            -.2           -.2
             [ .1  .3]]      .22            [  0   0]]            .1]            0]

    Everything that adds to a dead channel dies with it (convolution bias, BatchNorm weight and
    bias, depthwise filter), so that the channel is exactly zero and can be cut out.

    ``ties="stream"`` ties all layers that a residual join ties. `align` keeps channel counts at
    multiples of itself, because kernels like full blocks.
    """

    sparsity: float
    ties: Literal["stream"] = "stream"
    align: int = 8

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)
        if self.ties != "stream":
            raise UsageError(
                f"ties={self.ties!r} is not supported yet",
                where="Channel(ties=...)",
                hint='use ties="stream": the branches of a residual join share one mask',
            )
        if self.align < 1:
            raise UsageError(f"align is {self.align}, it must be at least 1", where="Channel(align=...)")


Pattern = Unstructured | Channel


def make_pattern(name: str, sparsity: float, *, ties: Literal["stream"] = "stream", align: int = 8) -> Pattern:
    """Return the pattern with this name.

    Raises:
        UsageError: for an unknown pattern, one that is not built yet, or impossible values.
    """
    if name == "unstructured":
        return Unstructured(sparsity)
    if name == "channel":
        return Channel(sparsity, ties=ties, align=align)
    known = f"use one of: {', '.join(PATTERN_NAMES)}"
    if name.lower() in _NOT_YET:
        raise UsageError(f"the pattern {_NOT_YET[name.lower()]} is not supported yet", where="pattern", hint=known)
    raise UsageError(f"unknown pattern {name!r}{near_misses(name, PATTERN_NAMES)}", where="pattern", hint=known)


def _check_sparsity(sparsity: float) -> None:
    if not 0 < sparsity < 1:
        raise UsageError(
            f"sparsity is {sparsity}, it must lie strictly between 0 and 1",
            where="sparsity",
            hint="it is a fraction, not a percentage: 0.9 makes nine weights of ten zero",
        )
