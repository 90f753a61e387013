"""The latency of all networks after removal, side by side in ONNX Runtime, each planned for it by measured costs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.channel_removal import sessions
from benchmarks.channel_removal.machine import environment
from benchmarks.channel_removal.timing import Effort, interleave
from benchmarks.mask_choice.plan import TASK, Run
from benchmarks.mask_choice.training import stored
from benchmarks.pruning_quality.tasks import TASKS, Task

KEY = "latency"
REPEATS = 20
"""Runs in one sample: these networks take a fraction of a millisecond."""
Row = dict[str, Any]


def measured(
    runs: Sequence[Run],
    folder: Path,
    effort: Effort,
    task: Task | None = None,
    *,
    batch: int = 1,
    plan_by_time: bool = True,
) -> Row:
    """Return the row with the latencies of all these runs, in milliseconds for `batch` images.

    `plan_by_time` is False to plan their removal by estimated costs.
    """
    task = task or TASKS[TASK]
    image = torch.randn(batch, 3, task.size, task.size, generator=torch.Generator().manual_seed(3))
    with tempfile.TemporaryDirectory() as place:
        rows: dict[str, Row] = {}
        work: dict[str, Callable[[], object]] = {}
        for run in runs:
            session, rows[run.key] = _opened(stored(run, task, folder), image, Path(place), plan_by_time)
            work[run.key] = _repeated(session.repeat)
        for key, samples in interleave(work, effort).items():
            rows[key]["cpu_ms"] = [round(float(value) / REPEATS, 5) for value in samples.cpu]
            rows[key]["wall_ms"] = [round(float(value) / REPEATS, 5) for value in samples.wall]
    return {"key": KEY, "runs": rows, "repeats": REPEATS, "batch": batch, "environment": environment()}


def _opened(model: nn.Module, image: Tensor, folder: Path, plan_by_time: bool) -> tuple[sessions.Opened, Row]:
    from pdp_export import remove_channels

    removed = remove_channels(model, (image,), target="onnx", measure=plan_by_time)
    session = sessions.native(removed.program, "onnx", image, folder)
    with torch.no_grad():
        expected = model(image)
    error = float((session.run(image) - expected).abs().max() / expected.abs().max())
    chosen = [choice.chosen for choice in removed.report.choices]
    return session, {
        "error": error,
        "macs": removed.report.macs_after / removed.report.macs_before,
        "parameters": removed.report.parameters_after / removed.report.parameters_before,
        "choices": dict(_counted(chosen)),
    }


def _counted(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    yield from ((name, names.count(name)) for name in dict.fromkeys(names))


def _repeated(once: Callable[[], object]) -> Callable[[], object]:
    def repeat() -> None:
        for _ in range(REPEATS):
            once()

    return repeat
