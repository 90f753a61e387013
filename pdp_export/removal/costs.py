"""What a choice costs: the protocol that measured models fulfil too, and three models that need no measuring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from pdp_export.errors import UsageError

Objective = Literal["latency", "size", "macs"]


@dataclass(frozen=True)
class LayerWork:
    """A layer with weights: `rows` x `columns` channels, `taps` weights for each pair, used at `positions` places."""

    rows: int
    columns: int
    taps: int
    positions: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.rows * self.columns * self.taps * self.positions


@dataclass(frozen=True)
class CopyWork:
    """A gather of `channels` channels with `positions` values each; `padded` where absent ones are filled in first."""

    channels: int
    positions: int
    padded: bool = False


class CostModel(Protocol):
    """Costs that can be added and compared; their unit is the model's own."""

    @property
    def name(self) -> str:
        """What is counted, for the report."""

    @property
    def worthwhile(self) -> float:
        """The share of a layer's cost that a change must save."""

    def layer(self, work: LayerWork) -> float:
        """Return the cost of a layer."""

    def copy(self, work: CopyWork) -> float:
        """Return the cost of a gather."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates alone: copies are free."""

    name: str = "multiply-accumulates"
    worthwhile: float = 0.0

    def layer(self, work: LayerWork) -> float:
        """Return rows x columns x taps x positions."""
        return float(work.macs)

    def copy(self, work: CopyWork) -> float:
        """Return 0."""
        del work
        return 0.0


@dataclass(frozen=True)
class Size:
    """Stored numbers: weights, and the 64-bit indices of copies, each as two."""

    name: str = "stored numbers"
    worthwhile: float = 0.0

    def layer(self, work: LayerWork) -> float:
        """Return the number of weights."""
        return float(work.rows * work.columns * work.taps)

    def copy(self, work: CopyWork) -> float:
        """Return twice the number of indices."""
        return 2.0 * work.channels


@dataclass(frozen=True)
class Analytic:
    """Microseconds of an imagined core: widths in whole blocks, copies bound by memory.

    The constants are those of one core with 256-bit vectors, rounded; a copy moves every value three times, since
    blocked layouts are undone before and made again behind it. They decide only what is not close.
    """

    block: int = 8
    macs_per_us: float = 25_000.0
    bytes_per_us: float = 5_000.0
    call_us: float = 4.0
    name: str = "estimated microseconds"
    worthwhile: float = 0.1

    def layer(self, work: LayerWork) -> float:
        """Return the time of the blocks that the channels fill."""
        rows, columns = (math.ceil(count / self.block) * self.block for count in (work.rows, work.columns))
        return self.call_us + rows * columns * work.taps * work.positions / self.macs_per_us

    def copy(self, work: CopyWork) -> float:
        """Return the time of moving the values, twice as long where others are filled in."""
        passes = 3 * (2 if work.padded else 1)
        return self.call_us + passes * 4 * work.channels * work.positions / self.bytes_per_us


def cost_model(objective: Objective, block: int) -> CostModel:
    """Return the model for an objective that needs no measuring.

    Raises:
        UsageError: for an unknown objective.
    """
    models: dict[str, CostModel] = {"latency": Analytic(max(block, 8)), "size": Size(), "macs": Macs()}
    if objective not in models:
        raise UsageError(f"unknown objective {objective!r}", where="objective", hint=f"use one of: {', '.join(models)}")
    return models[objective]
