"""Carries out one job: makes the variants, compares them with the masked network, times them."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.channel_removal import planning_time, sessions
from benchmarks.channel_removal.case import Case, NotPossibleError
from benchmarks.channel_removal.machine import environment
from benchmarks.channel_removal.ours import Made, for_target
from benchmarks.channel_removal.plan import NATIVE, Job
from benchmarks.channel_removal.sessions import Opened
from benchmarks.channel_removal.timing import Effort, interleave
from benchmarks.channel_removal.variants import OTHER_FUNCTIONS, OURS, PER_RUNTIME, UNCHANGED, Make, variants
from pdp_export.removal import simplify

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ERROR_LIMIT = 1e-5
"""Largest difference from the masked network in float32, relative to max|y|; or three times that of dense."""

NATIVE_ROUNDING = 4
"""How many times the rounding of the dense network a target's own runtime may add; as in the proof of removal."""

ROUNDING_LIMIT = 1e-4
"""No network of this benchmark rounds more than this, neither dense nor removed."""

Row = dict[str, Any]
_OPEN = {"onnxruntime": sessions.onnx_runtime, "torch": sessions.eager}


class Bench:
    """Runs jobs; variants of the same masked network are made once for all jobs that follow each other."""

    def __init__(self, costs: Path, effort: Effort) -> None:
        self.costs, self.effort = costs, effort
        self._case: Case | None = None
        self._made: dict[str, Made | str] = {}

    def row(self, job: Job) -> Row:
        """Carry out a job and return its row."""
        torch.set_num_threads(1)
        start = time.perf_counter()
        found = self._found(job)
        spent = round(time.perf_counter() - start, 1)
        facts = {"net": job.net, "kind": job.kind, "ratio": job.ratio, "runtime": job.runtime, "depth": job.depth}
        return {"key": job.key, "status": "ok", **facts, **found, "seconds": spent, "environment": environment()}

    def _found(self, job: Job) -> Row:
        if job.runtime == "growth":
            return planning_time.growth(job.depth)
        case = self._case_of(job)
        if job.runtime == "planning":
            return planning_time.whole(case)
        return _native(case, job.runtime, self.effort) if job.runtime in NATIVE else self._compared(case, job.runtime)

    def _case_of(self, job: Job) -> Case:
        case = Case(job.net, job.kind, job.ratio, environment()["block"], self.costs)
        if self._case is None or self._case.name != case.name:
            self._case, self._made = case, {}
        return self._case

    def _compared(self, case: Case, runtime: str) -> Row:
        rows: dict[str, Row] = {}
        opened: dict[str, Opened] = {}
        for name, make in variants(case, runtime).items():
            made = self._make(case, name, runtime, make)
            if isinstance(made, str):
                rows[name] = {"status": "failed", "reason": made}
                continue
            session = _OPEN[runtime](made.module, case.images[0])
            rounding = rows.get("dense", {}).get("error", 0.0)  # dense comes first
            rows[name] = _judged(case, name, session, rounding) | made.facts
            if rows[name]["status"] == "ok":
                opened[name] = session
        return {"variants": _timed(rows, opened, self.effort)}

    def _make(self, case: Case, name: str, runtime: str, make: Make) -> Made | str:
        key = f"{name}@{runtime}" if name in PER_RUNTIME else name
        if key not in self._made:
            try:
                self._made[key] = make(case)
            except NotPossibleError as error:
                self._made[key] = str(error)
            gc.collect()  # graphs refer to themselves, and hold gigabytes that Python does not see
        return self._made[key]


def _native(case: Case, target: str, effort: Effort) -> Row:
    """Compare dense and ours in a target's own runtime, each through our converter."""
    programs: dict[str, Callable[[], ExportedProgram]] = {
        "dense": lambda: simplify(case.masked, case.images[:1]),
        OURS: lambda: for_target(case, target),
    }
    with tempfile.TemporaryDirectory() as folder:
        opened = {}
        for name, make in programs.items():
            place = Path(folder) / name
            place.mkdir()
            opened[name] = sessions.native(make(), target, case.images[0], place)
        errors = {name: _error(case, session) for name, session in opened.items()}
        limit = max(ERROR_LIMIT, NATIVE_ROUNDING * errors["dense"])
        rows = {name: _row(error, limit, opened[name]) for name, error in errors.items()}
        return {"variants": _timed(rows, opened, effort)}


def _judged(case: Case, name: str, session: Opened, rounding: float = 0.0) -> Row:
    """Compare with the masked network, unless the variant is another function on purpose."""
    if name in OTHER_FUNCTIONS:
        session.run(case.images[0])
        return {"status": "ok", "gathers": session.gathers}
    limit = ROUNDING_LIMIT if name in UNCHANGED else min(max(ERROR_LIMIT, 3 * rounding), ROUNDING_LIMIT)
    return _row(_error(case, session), limit, session)


def _error(case: Case, session: Opened) -> float:
    """Return the largest difference from the masked network in float64, relative to max|y|."""
    pairs = zip((session.run(image) for image in case.images), case.expected, strict=True)
    return max(float((new - old).abs().max() / old.abs().max()) for new, old in pairs)


def _row(error: float, limit: float, session: Opened) -> Row:
    if not error <= limit:
        return {"status": "wrong", "reason": f"differs by {error:.1e} of max|y|", "error": error}
    return {"status": "ok", "error": error, "gathers": session.gathers}


def _timed(rows: dict[str, Row], opened: dict[str, Opened], effort: Effort) -> dict[str, Row]:
    samples = interleave({name: session.repeat for name, session in opened.items()}, effort)
    for name, found in samples.items():
        rows[name]["cpu_ms"] = [round(float(value), 4) for value in found.cpu]
        rows[name]["wall_ms"] = [round(float(value), 4) for value in found.wall]
    return rows
