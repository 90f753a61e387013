"""When thresholds are selected anew: selection is the costly part of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdp_export.errors import UsageError

_SHARE, _MOST = 0.002, 16  # of the run, and steps


class Refreshing:
    """Tells at which steps thresholds are due.

    With `every` at each n-th step; otherwise whenever 0.2 % of the run are done, at least every
    16 steps. The last step of a run is always due, so that the deployed mask is the trained one.
    """

    def __init__(self, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise UsageError(f"refresh_every is {every}, it must be at least 1", where="Pruner")
        self.every = every
        self._since, self._progress = 0, -1.0

    def due(self, progress: float) -> bool:
        """Count a step that ends at `progress`, and tell whether thresholds are due."""
        self._since += 1
        moved = self.every is None and progress - self._progress >= _SHARE
        if not (moved or self._since >= (self.every or _MOST) or progress >= 1 or self._progress < 0):
            return False
        self._since, self._progress = 0, progress
        return True

    @property
    def fresh(self) -> bool:
        """Whether the last step selected thresholds, so that masks follow from the present weights."""
        return self._since == 0

    def state(self) -> dict[str, Any]:
        """Return the counters as JSON values."""
        return {"since": self._since, "progress": self._progress}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the counters back."""
        self._since, self._progress = state["since"], state["progress"]
