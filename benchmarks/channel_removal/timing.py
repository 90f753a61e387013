"""Times variants side by side: round by round, every other round in reverse, by two clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Work = Callable[[], object]
WARM_UPS = 2


@dataclass(frozen=True)
class Effort:
    """How long to measure: as many rounds as fit into `seconds`, within bounds."""

    seconds: float
    fewest: int
    most: int

    def rounds(self, seconds_per_round: float) -> int:
        """Return the number of rounds, odd, so that the median is one of them."""
        wanted = int(self.seconds / max(seconds_per_round, 1e-9))
        return min(max(wanted, self.fewest), self.most) | 1


@dataclass(frozen=True)
class Samples:
    """Milliseconds of one variant, one value for each round."""

    cpu: Array
    wall: Array


def interleave(work: Mapping[str, Work], effort: Effort) -> dict[str, Samples]:
    """Run every variant once per round and return its times.

    The process's CPU time is the figure: with one thread it is what the wall clock reads on a quiet machine, and it
    stays so on a busy one.
    """
    names = list(work)
    for _ in range(WARM_UPS):
        start = time.perf_counter()
        for name in names:
            work[name]()
    rounds = effort.rounds(time.perf_counter() - start)
    found = {name: Samples(np.empty(rounds), np.empty(rounds)) for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            work[name]()
            found[name].cpu[number] = (time.process_time_ns() - cpu) / 1e6
            found[name].wall[number] = (time.perf_counter_ns() - wall) / 1e6
    return found
