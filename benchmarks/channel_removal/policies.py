"""Rules that need no costs: what a plan is worth that does the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pdp_export.removal.costs import LayerWork


@dataclass(frozen=True)
class Always:
    """A cost model by which gathers are free: every layer becomes as narrow as it can be, in widths of `fills`."""

    fills: tuple[int, ...] = (1,)
    name: str = "always select"
    worthwhile: float = 0.0

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        """Return multiply-accumulates."""
        return [float(work.macs) for work in options]


@dataclass(frozen=True)
class Never:
    """A cost model by which gathers are never worth it: a channel goes only where nobody needs it."""

    fills: tuple[int, ...] = (1,)
    name: str = "never select"
    worthwhile: float = 0.0

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        """Return nothing for the layer and infinity for a gather."""
        return [math.inf if any(True for _ in work.copies) else 0.0 for work in options]
