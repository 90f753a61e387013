"""What may be zero together: the shape of a mask. Each pattern is a small frozen class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pdp_export.errors import UsageError, near_misses

PATTERN_NAMES = ("unstructured", "nm", "block", "channel")
Ties = Literal["stream", "free"]


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

    ``ties="stream"`` ties all layers that a residual join ties; with ``ties="free"`` the branches may
    disagree, so a channel leaves the stream only where all of them drop it. `align` keeps channel
    counts at multiples of itself, because kernels like full blocks.
    """

    sparsity: float
    ties: Ties = "stream"
    align: int = 8

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)
        if self.ties not in ("stream", "free"):
            raise UsageError(f"unknown ties {self.ties!r}", where="Channel(ties=...)", hint="use one of: stream, free")
        if self.align < 1:
            raise UsageError(f"align is {self.align}, it must be at least 1", where="Channel(align=...)")


@dataclass(frozen=True)
class NM:
    """`n` weights are kept of every `m` consecutive ones along the input channels, 0 < n < m.

    Groups lie along axis 1 of (C_out, C_in, kH, kW), each output channel and kernel position for
    itself. NM(1, 4) on a layer of shape (C_out, C_in) = (2, 4)::

        w    = [[ .9 -.1  .4  .2]       kept = [[ .9  0   0   0]
                [-.6  .3 -.1 -.7]]              [  0  0   0 -.7]]

    Layers whose input width is no multiple of `m` are left alone and reported. Mind that some tools
    count zeros instead: coremltools calls this one (3, 4).
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and isinstance(self.m, int) and 0 < self.n < self.m):
            raise UsageError(
                f"n is {self.n} and m is {self.m}, they must be integers with 0 < n < m",
                where="NM(n, m)",
                hint="n weights are kept of every m: NM(2, 4) prunes half of them",
            )

    @property
    def sparsity(self) -> float:
        """The share of zeros in a pruned layer."""
        return 1 - self.n / self.m


@dataclass(frozen=True)
class Block:
    """Blocks of `height` output by `width` input channels are zero, each kernel position for itself.

    `sparsity` is the share of zero blocks over all prunable layers together; a block's score is the
    rms of its weights. Block(0.5, 1, 2) on a layer of shape (C_out, C_in) = (2, 4)::

        w    = [[ .9 -.1  .4  .2]       kept = [[ .9 -.1   0   0]
                [-.6  .3 -.1 -.7]]              [  0   0 -.1 -.7]]       rms .64 .32 / .47 .5

    Layers whose widths are no multiples of the block are left alone and reported.
    """

    sparsity: float
    height: int
    width: int

    def __post_init__(self) -> None:
        _check_sparsity(self.sparsity)
        if self.height < 1 or self.width < 1 or self.height * self.width == 1:
            raise UsageError(
                f"the block is {self.height} x {self.width}; it must hold at least two weights",
                where="Block(height, width)",
                hint="use Unstructured for single weights",
            )


Pattern = Unstructured | NM | Block | Channel


def make_pattern(
    name: str,
    sparsity: float,
    *,
    ties: Ties = "stream",
    align: int = 8,
    n: int = 2,
    m: int = 4,
    block: tuple[int, int] = (1, 4),
) -> Pattern:
    """Return the pattern with this name; only its own arguments are read.

    Raises:
        UsageError: for an unknown pattern, or impossible values.
    """
    builders: dict[str, Callable[[], Pattern]] = {
        "unstructured": lambda: Unstructured(sparsity),
        "nm": lambda: NM(n, m),
        "block": lambda: Block(sparsity, *block),
        "channel": lambda: Channel(sparsity, ties=ties, align=align),
    }
    if name not in builders:
        raise UsageError(
            f"unknown pattern {name!r}{near_misses(name, PATTERN_NAMES)}",
            where="pattern",
            hint=f"use one of: {', '.join(PATTERN_NAMES)}",
        )
    return builders[name]()


def _check_sparsity(sparsity: float) -> None:
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 < sparsity < 1:
        raise UsageError(
            f"sparsity is {sparsity!r}, it must lie strictly between 0 and 1",
            where="sparsity",
            hint="it is a fraction, not a percentage: 0.9 makes nine weights of ten zero",
        )
