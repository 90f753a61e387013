"""When: the pruned share and the temperature as functions of progress, from 0 to 1 over the run."""

from __future__ import annotations

from dataclasses import dataclass

from pdp_export.errors import UsageError
from pdp_export.pruning.methods.presets import Ramp


@dataclass(frozen=True)
class AccuracyRule:
    """Warm-up ends when the validation metric was at least `level` for `epochs` epochs in a row.

    Source: PDP as reported: half of the accuracy's upper bound, for 5 epochs. It ends at half of
    `Schedule.ramp_end` at the latest.
    """

    level: float = 0.5
    epochs: int = 5

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"epochs is {self.epochs}, it must be at least 1", where="AccuracyRule")


@dataclass(frozen=True)
class Schedule:
    """How the ratio rises: nothing until `warmup`, the full ratio from `ramp_end` on.

    Both are shares of the run; `warmup` may be an `AccuracyRule` instead. With u the share of the way
    between them that is done, the share of the final ratio is ``u`` (linear, PDP) or ``1 - (1 - u)^3``
    (cubic; Zhu & Gupta 2017, arXiv 1710.01878, equation 1). `steps` is the length of the run in calls
    of ``Pruner.step()``; it is only needed where step() is called without a progress.
    """

    warmup: float | AccuracyRule = 0.1
    ramp_end: float = 0.75
    ramp: Ramp = "cubic"
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= (0 if isinstance(self.warmup, AccuracyRule) else self.warmup) < self.ramp_end <= 1:
            raise UsageError(
                f"warmup {self.warmup} and ramp_end {self.ramp_end} must satisfy 0 <= warmup < ramp_end <= 1",
                where="Schedule",
            )
        if self.ramp not in ("cubic", "linear"):
            raise UsageError(f"unknown ramp {self.ramp!r}", where="Schedule", hint="use one of: cubic, linear")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps is {self.steps}, it must be at least 1", where="Schedule")

    def start(self, progress: float, epochs: int) -> float | None:
        """Return where the ramp starts, or None while an `AccuracyRule` waits.

        `epochs` counts the validations in a row that reached the rule's level.
        """
        if not isinstance(self.warmup, AccuracyRule):
            return self.warmup
        return min(progress, self.latest) if epochs >= self.warmup.epochs or progress >= self.latest else None

    @property
    def latest(self) -> float:
        """Where an `AccuracyRule` ends without being met."""
        return self.ramp_end / 2

    def share(self, progress: float, start: float) -> float:
        """Return the share of the final ratio, 0..1, of a ramp that starts at `start`."""
        along = min(1.0, max(0.0, (progress - start) / (self.ramp_end - start)))
        return along if self.ramp == "linear" else 1 - (1 - along) ** 3
