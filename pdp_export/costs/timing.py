"""Times short functions side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

Run = Callable[[], object]

_WARM_UPS = 2
_ROUNDS = (5, 25)
_SECONDS = 0.02


def median_us(runs: Sequence[Run], *, threads: int = 1, seconds: float = _SECONDS) -> list[float]:
    """Return the median time of each function in microseconds, taken in turns so that all meet the same machine.

    With one thread this is processor time, which other programs disturb least; with several it is the clock. A
    function gets about `seconds` in all, but at least five turns and at most 25.
    """
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    taken: list[list[int]] = [[] for _ in runs]
    for _ in range(_WARM_UPS):
        start = clock()
        for run in runs:
            run()
        first = (clock() - start) / max(len(runs), 1)
    least, most = _ROUNDS
    for number in range(min(most, max(least, int(seconds * 1e9 / max(first, 1))))):
        order = range(len(runs)) if number % 2 == 0 else reversed(range(len(runs)))
        for index in order:
            start = clock()
            runs[index]()
            taken[index].append(clock() - start)
    return [median(times) / 1000 for times in taken]
