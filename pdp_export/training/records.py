"""What training tells about itself, and what it asks of its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pdp_export.pruning.records import MaskStatistics
from pdp_export.results import Record


class Objective(Protocol):
    """Loss and metric of a task; `pdp_export.tasks.objective.Objective` is one."""

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """Return the scalar loss of a batch."""
        ...

    def scores(self, outputs: Any, target: Any) -> Tensor:
        """Return one score per sample, shape (N,), higher is better."""
        ...


class Loaders(Protocol):
    """The batches to learn from and those to measure on; each can be iterated again and again."""

    @property
    def train(self) -> Iterable[Any]:
        """Batches of ``(inputs, target)``; must have a length."""
        ...

    @property
    def validation(self) -> Iterable[Any]:
        """Batches of ``(inputs, target)``."""
        ...


class EpochRecord(Record):
    """One epoch: mean training loss, mean validation score (masks soft), last learning rate.

    `seconds` is wall time with validation; `sparsity` the pruned share at the end and `layers` the
    state of every mask then, None and empty without pruning.
    """

    epoch: int
    loss: float
    metric: float
    lr: float
    seconds: float
    sparsity: float | None = None
    layers: tuple[MaskStatistics, ...] = ()


class TrainingResult(Record):
    """The run: one record per epoch, the final validation score, and where it was resumed.

    `metric` is measured with soft masks; measure again after hardening. `resumed_at` is the step
    of the checkpoint that this run went on from.
    """

    history: tuple[EpochRecord, ...]
    metric: float
    steps: int
    resumed_at: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """One tick for a progress bar; counts start at 1, `metric` is the last validation score."""

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metric: float | None


OnProgress = Callable[[Progress], None]
