"""How far a run is, and how far its ramp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pdp_export.errors import UsageError
from pdp_export.pruning.schedule import AccuracyRule, Schedule


class Clock:
    """Counts steps and validations against a schedule.

    Attributes:
        progress: The share of the run that is done, 0..1.
        start: Where the ramp starts; None while an `AccuracyRule` waits.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.progress, self._steps, self._validations = 0.0, 0, 0
        self.start = schedule.start(0.0, 0)

    @property
    def share(self) -> float:
        """The share of the final ratio at the present progress, 0..1."""
        return 0.0 if self.start is None else self.schedule.share(self.progress, self.start)

    def advance(self, progress: float | None) -> None:
        """Count a step that ends at `progress`, or at the next of the schedule's steps.

        Raises:
            UsageError: without any progress, or for one that is no share.
        """
        self._steps += 1
        if progress is None:
            if self.schedule.steps is None:
                raise UsageError(
                    "step() was called without a progress, and the schedule has no number of steps",
                    where="Pruner.step",
                    hint="call step(done / total), or build Schedule(steps=total)",
                )
            progress = self._steps / self.schedule.steps
        if not 0 <= progress < math.inf:
            raise UsageError(f"progress is {progress}, it must be a share of the run, 0..1", where="Pruner.step")
        self.progress = min(1.0, progress)
        self._ask_schedule()

    def validated(self, metric: float) -> None:
        """Count a validation for an `AccuracyRule` that still waits."""
        rule = self.schedule.warmup
        if isinstance(rule, AccuracyRule) and self.start is None:
            self._validations = self._validations + 1 if metric >= rule.level else 0
            self._ask_schedule()

    def finish(self) -> None:
        """Go to the end of the run at once."""
        self.progress, self.start = 1.0, self.start or 0.0

    def state(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        counters = {"steps": self._steps, "validations": self._validations}
        return {"progress": self.progress, "start": self.start, **counters}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self.progress, self.start = state["progress"], state["start"]
        self._steps, self._validations = state["steps"], state["validations"]

    def _ask_schedule(self) -> None:
        if self.start is None:
            self.start = self.schedule.start(self.progress, self._validations)
