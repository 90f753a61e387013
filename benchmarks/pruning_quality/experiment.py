"""One run: from the shared dense phase to a finished network and its row."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import pdp_export
from benchmarks.pruning_quality import data as datasets
from benchmarks.pruning_quality.batches import Batches, accuracy
from benchmarks.pruning_quality.counting import leftovers
from benchmarks.pruning_quality.loop import DivergedError, dense_phase, train
from benchmarks.pruning_quality.methods.base import NotInstalledError, Setting
from benchmarks.pruning_quality.methods.registry import METHODS
from benchmarks.pruning_quality.plan import Run
from benchmarks.pruning_quality.tasks import TASKS, Task


@dataclass(frozen=True)
class Places:
    """Where data comes from and where dense checkpoints are kept."""

    data_dir: Path
    fashion_dir: Path
    cache: Path


def execute(run: Run, places: Places) -> dict[str, Any]:
    """Train and measure one run; return its row, also when the method cannot run.

    `status` is "ok", "not installed" (an outside tool), "refused" (the method says no) or "diverged".
    """
    torch.set_num_threads(1)
    logging.getLogger("pdp_export").setLevel(logging.ERROR)  # the gap is measured; its warnings are not needed
    torch.set_flush_denormal(True)  # decaying weights and momenta would slow the core down
    start, busy = time.perf_counter(), time.process_time()
    result = _outcome(run, places)
    return {
        "key": run.key,
        **run.describe(),
        **result,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - busy, 2),
        "versions": _versions(METHODS[run.method].package),
        "hardware": _hardware(),
    }


def _outcome(run: Run, places: Places) -> dict[str, Any]:
    from pdp_export.errors import PdpExportError, TrainingStoppedError

    try:
        return {"status": "ok", **_train(run, places)}
    except NotInstalledError as error:
        return {"status": "not installed", "reason": f"{error} is not installed"}
    except (DivergedError, TrainingStoppedError) as error:
        return {"status": "diverged", "reason": str(error)}
    except PdpExportError as error:
        return {"status": "refused", "reason": str(error)}


def _train(run: Run, places: Places) -> dict[str, Any]:
    task = TASKS[run.task]
    data = load(task, places)
    model = dense_phase(task, data, run.seed, places.cache)
    batches = Batches(data, task.batch, task.augment, run.seed)
    options = {name: value for name, value in run.options.items() if name != "lr"}
    setting = Setting(task, run.pattern, run.sparsity, options, task.epochs * batches.per_epoch)
    method = METHODS[run.method].build(model, setting)
    train(model, method, batches, task, run.options["lr"], (task.dense_epochs, task.epochs))
    part = data.test if run.split == "test" else data.tuning
    soft = accuracy(model, part, data)
    method.finish()
    return {"soft": soft, "hard": accuracy(model, part, data), **leftovers(model, task, run.pattern)}


def load(task: Task, places: Places) -> datasets.Data:
    """Return the task's data; see `data.load`."""
    return datasets.load(task.data, task.train_size, task.tuning_size, places.data_dir, places.fashion_dir)


@cache
def _versions(package: str | None) -> dict[str, str]:
    names = ["torch", "numpy", "pdp-export", *([package] if package else [])]
    found = {"python": platform.python_version(), "pruning_source": _source()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _source() -> str:
    """Return a digest of the package's pruning code, which may be newer than its version number."""
    folder = Path(pdp_export.__file__).parent / "pruning"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _hardware() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    lines = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return {"cpu": lines[0] if lines else platform.processor(), "cores": os.cpu_count(), "threads_per_run": 1}
