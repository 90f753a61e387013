"""What a choice costs: the protocol that measured models fulfil too, and the models that need no measuring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from pdp_export.errors import UsageError

Objective = Literal["latency", "size", "macs"]
Kind = Literal["convolution", "transposed", "linear"]
Stage = Literal["norm", "unary"]
"""Element-wise work, with stored numbers for each channel or without."""


@dataclass(frozen=True)
class CopyWork:
    """A gather of `channels` channels with `positions` values each; `padded` where absent ones are filled in first."""

    channels: int
    positions: int
    padded: bool = False


@dataclass(frozen=True)
class LayerWork:
    """A layer with weights, and the gathers around it, as one option would have them.

    It reads `columns` channels of the `available` that its input has, and makes `rows` channels of the `wanted` that
    its output needs. `before` is element-wise work in front of it, done for the channels that it reads. `source` and
    `result` are the sizes (N, spatial...) of both without their channels; a linear layer has all its rows in N.
    `kernel`, `stride` and `dilation` have one entry for each spatial axis. Where there are `parts`, the columns come
    in so many tensors, of so many channels each, and the layer is the sum of one on each; then there is no `before`.
    """

    kind: Kind
    rows: int
    columns: int
    available: int
    wanted: int
    source: tuple[int, ...]
    result: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    before: tuple[Stage, ...] = ()
    parts: tuple[int, ...] = ()

    @property
    def weights(self) -> int:
        """Stored numbers, without the bias."""
        return self.rows * self.columns // self.groups * math.prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.weights * math.prod(self.source if self.kind == "transposed" else self.result)

    @property
    def copies(self) -> Iterator[CopyWork]:
        """Yield the gather in front, and the one behind, where there is one."""
        if self.columns < self.available:
            yield CopyWork(self.columns, math.prod(self.source))
        if self.rows < self.wanted:
            yield CopyWork(self.wanted, math.prod(self.result), padded=True)


_NODE = 40
"""A layer and an addition more take about as many bytes in a file as so many numbers."""

_NO_REUSE = 4
"""A layer of many groups loads each input for so few results that it takes as long as this many columns."""


class CostModel(Protocol):
    """Costs of the same unit, which is the model's own."""

    @property
    def name(self) -> str:
        """What is counted, for the report."""

    @property
    def worthwhile(self) -> float:
        """The share of a layer's cost that a change must save; negative: that it may cost."""

    @property
    def fills(self) -> tuple[int, ...]:
        """The multiples that the width of a narrowed layer may be filled to; 1 for as narrow as can be."""

    @property
    def before_concatenations(self) -> bool:
        """Whether every select moves in front of a concatenation, where that makes several of it."""

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        """Return what each option of one layer costs."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates alone: copies are free."""

    fills: tuple[int, ...] = (1,)
    name: str = "multiply-accumulates"
    worthwhile: float = 0.0
    before_concatenations: bool = False

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        """Return rows x columns x taps x positions."""
        return [float(work.macs) for work in options]


@dataclass(frozen=True)
class Never:
    """No gather is worth it: a channel goes only where nobody needs it."""

    fills: tuple[int, ...] = (1,)
    name: str = "no gathers"
    worthwhile: float = 0.0
    before_concatenations: bool = False

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        """Return infinity for a gather, and else nothing."""
        return [math.inf if any(True for _ in work.copies) else 0.0 for work in options]


@dataclass(frozen=True)
class Size:
    """Stored numbers: weights, and the 64-bit indices of copies, each as two."""

    fills: tuple[int, ...] = (1,)
    name: str = "stored numbers"
    worthwhile: float = 0.0
    before_concatenations: bool = False

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        """Return the number of weights, twice the number of indices, and what more layers take."""
        return [
            float(work.weights + 2 * sum(copy.channels for copy in work.copies) + _NODE * max(len(work.parts) - 1, 0))
            for work in options
        ]


@dataclass(frozen=True)
class Analytic:
    """Microseconds of an imagined core: widths in whole blocks, copies bound by memory.

    The constants are those of one core with 256-bit vectors, rounded; a copy moves every value three times, since
    blocked layouts are undone before and made again behind it. They decide only what is not close.
    """

    block: int = 8
    fills: tuple[int, ...] = (1,)
    macs_per_us: float = 25_000.0
    bytes_per_us: float = 5_000.0
    call_us: float = 4.0
    name: str = "estimated microseconds"
    worthwhile: float = 0.1
    before_concatenations: bool = False

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        """Return the time of the blocks that the channels fill, and of the copies."""
        return [self._layer(work) + sum(map(self._copy, work.copies)) for work in options]

    def _layer(self, work: LayerWork) -> float:
        if work.parts:
            terms = sum(self._layer(replace(work, columns=part, available=part, parts=())) for part in work.parts)
            return terms + (len(work.parts) - 1) * self._passes(3, work.rows, math.prod(work.result))
        rows, columns = (math.ceil(count / self.block) * self.block for count in (work.rows, work.columns))
        pairs = rows * columns if work.groups == 1 else rows * max(work.columns // work.groups, _NO_REUSE)
        macs = work.macs / (work.rows * work.columns // work.groups) * pairs
        stages = len(work.before) * (self.call_us + 2 * 4 * work.columns * math.prod(work.source) / self.bytes_per_us)
        return self.call_us + macs / self.macs_per_us + stages

    def _copy(self, copy: CopyWork) -> float:
        return self._passes(6 if copy.padded else 3, copy.channels, copy.positions)

    def _passes(self, number: int, channels: int, positions: int) -> float:
        return self.call_us + number * 4 * channels * positions / self.bytes_per_us


def cost_model(objective: Objective, align: int | Sequence[int]) -> CostModel:
    """Return the model for an objective that needs no measuring; widths are filled to multiples of `align`.

    Raises:
        UsageError: for an unknown objective.
    """
    fills = (align,) if isinstance(align, int) else tuple(align)
    models: dict[str, CostModel] = {
        "latency": Analytic(max(8, *fills), fills),
        "size": Size(fills),
        "macs": Macs(fills),
    }
    if objective not in models:
        raise UsageError(f"unknown objective {objective!r}", where="objective", hint=f"use one of: {', '.join(models)}")
    return models[objective]
