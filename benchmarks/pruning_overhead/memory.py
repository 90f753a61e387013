"""Peak memory of a few training steps: every arm in a process of its own. Linux only.

The kernel's own high-water mark is read; ``ru_maxrss`` would also count the process that started this one.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.pruning_overhead.subjects import Subject

_STEPS = 17  # one more than the longest refresh, so that a selection is among them
_MAPPED = 1 << 16  # larger tensors are mapped and given back at once, so that the peak is theirs, not the heap's
_ROOT = Path(__file__).resolve().parents[2]


def measure(subject: str, arms: Sequence[str], batch: int) -> dict[str, Any]:
    """Return each arm's peak and its ratio to dense.

    `ratio` compares what training adds to a process that has loaded its libraries, `ratio_of_process`
    whole processes.
    """
    found = {arm: _in_process(subject, arm, batch) for arm in arms if arm != "again"}
    dense = found["dense"]
    return {
        arm: {
            "peak_bytes": item["peak"],
            "training_bytes": item["peak"] - item["start"],
            "ratio": round((item["peak"] - item["start"]) / (dense["peak"] - dense["start"]), 4),
            "ratio_of_process": round(item["peak"] / dense["peak"], 4),
        }
        for arm, item in found.items()
        if item
    }


def train_and_report(subject_name: str, arm: str, batch: int) -> None:
    """Train a few steps in this process and print its memory before and at the peak, as JSON."""
    import torch

    from benchmarks.pruning_overhead.arms import NotInstalledError
    from benchmarks.pruning_overhead.subjects import SUBJECTS

    torch.set_num_threads(1)
    subject = SUBJECTS[subject_name]
    try:
        _warm_up(arm)
    except NotInstalledError:
        print("{}")
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark starts anew
    start = _status("VmRSS")
    _train(subject, arm, batch)
    print(json.dumps({"start": start, "peak": _status("VmHWM")}))


def _train(subject: Subject, arm: str, batch: int) -> None:
    from benchmarks.pruning_overhead.arms import attach
    from benchmarks.pruning_overhead.subjects import step

    model, data = subject.model(), subject.data(batch)
    after = attach(arm, model)
    optimizer = subject.make_optimizer(model)
    for _ in range(_STEPS):
        step(model, optimizer, data)
        after()


def _warm_up(arm: str) -> None:
    """Train something tiny, so that the libraries' own memory is there before the start."""
    import torch
    from torch import nn

    from benchmarks.pruning_overhead.subjects import Subject

    def tiny() -> nn.Module:
        layers = [
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.Flatten(),
            nn.Linear(128, 10),
        ]
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    for optimizer in ("sgd", "adamw"):
        _train(Subject("tiny", tiny, 2, "", optimizer, lambda batch: torch.randn(batch, 3, 8, 8), 1), arm, 2)


def _in_process(subject: str, arm: str, batch: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.pruning_overhead", "memory-of", subject, arm, str(batch)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(_MAPPED), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT, env=environment)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _status(field: str) -> int:
    """Return a field of /proc/self/status in bytes: VmRSS is resident now, VmHWM was at the peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
