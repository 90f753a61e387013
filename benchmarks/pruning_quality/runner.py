"""Executes what is missing, in processes of one thread each; every finished run is on disk at once."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.pruning_quality import rows
from benchmarks.pruning_quality.experiment import Places, execute
from benchmarks.pruning_quality.plan import Run, missing
from benchmarks.pruning_quality.rows import Row

GUESS_SECONDS = 35.0  # for a task without any row yet
Execute = Callable[[Run, Places], Row]


class RunsFailedError(Exception):
    """Some runs ended with an unexpected error; the text names them."""


@dataclass(frozen=True)
class Limits:
    """What to run now: a stage, keys that match a pattern, for so long."""

    stage: str | None = None
    only: str | None = None
    max_minutes: float | None = None
    jobs: int = 1

    def wants(self, run: Run) -> bool:
        """Tell whether a run is asked for; ablations only by the name of their stage."""
        stage = run.stage != "ablate" if self.stage is None else run.stage == self.stage
        return stage and (self.only is None or re.search(self.only, run.key) is not None)


def run_missing(results: Path, places: Places, limits: Limits, execute_run: Execute = execute) -> int:
    """Run everything that is missing and wanted, planning anew as rows arrive; return how many ran.

    When the time is over no new run starts, and those under way are finished. A run that fails by a bug
    leaves no row; the others go on.

    Raises:
        RunsFailedError: at the end, naming the runs that failed.
    """
    deadline = None if limits.max_minutes is None else time.monotonic() + 60 * limits.max_minutes
    context = multiprocessing.get_context("spawn")
    finished, active, failed = 0, dict[Future[Row], Run](), set[str]()
    with ProcessPoolExecutor(limits.jobs, mp_context=context) as pool:
        while True:
            done = rows.by_key(rows.read(results))
            taken = failed | {run.key for run in active.values()}
            todo = [run for run in missing(done)[0] if limits.wants(run) and run.key not in taken]
            in_time = deadline is None or time.monotonic() < deadline
            for run in todo[: limits.jobs - len(active)] if in_time else []:
                active[pool.submit(execute_run, run, places)] = run
            if not active:
                break
            for future in wait(active, return_when=FIRST_COMPLETED).done:
                run, error = active.pop(future), future.exception()
                if error is not None:
                    failed.add(run.key)
                    print(f"FAILED {run.key}: {error!r}", flush=True)
                    continue
                rows.append(results, future.result())
                finished += 1
                print(describe(future.result()), f"({max(0, len(todo) - 1)} more)", flush=True)
    if failed:
        raise RunsFailedError(f"{len(failed)} runs failed: {', '.join(sorted(failed))}")
    return finished


def describe(row: Row) -> str:
    """Return one line about a finished run."""
    figures = f"{row['hard']:.2f} % (soft {row['soft']:.2f})" if row["status"] == "ok" else row["status"]
    return f"{row['seconds']:6.1f} s  {figures:24s} {row['key']}"


def estimate(runs: list[Run], done: Mapping[str, Row]) -> float:
    """Return the core-hours of these runs: medians of finished runs of the same task and method, or of the task."""
    times: dict[tuple[str, str | None], list[float]] = {}
    for row in done.values():
        if row["status"] == "ok":
            for method in (row["method"], None):
                times.setdefault((row["task"], method), []).append(row["cpu_seconds"])
    seconds = 0.0
    for run in runs:
        known = times.get((run.task, run.method)) or times.get((run.task, None)) or [GUESS_SECONDS]
        seconds += median(known)
    return seconds / 3600
