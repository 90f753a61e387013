"""Trains one network with the loop, the batches and the dense phase of ``benchmarks.pruning_quality``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.mask_choice.plan import LEARNING_RATE, PRESET, RAMP_END, TASK, Run
from benchmarks.pruning_quality.batches import Batches, accuracy
from benchmarks.pruning_quality.data import Data
from benchmarks.pruning_quality.experiment import Places, load
from benchmarks.pruning_quality.loop import dense_phase, train
from benchmarks.pruning_quality.methods.base import Attached
from benchmarks.pruning_quality.tasks import TASKS, Task
from pdp_export.pruning import Channel, Pruner, Schedule


class Masks(Attached):
    """PDP with a pattern of channels."""

    def __init__(self, model: nn.Module, pattern: Channel, task: Task) -> None:
        schedule = Schedule(task.warmup, RAMP_END)
        self.pruner = Pruner(model, pattern, schedule, task.example(), preset=PRESET)

    def step(self, progress: float, optimizer: torch.optim.Optimizer) -> bool:
        """Refresh the masks."""
        del optimizer
        self.pruner.step(progress)
        return False

    def finish(self) -> None:
        """Harden."""
        self.pruner.harden()


def trained(run: Run, places: Places, folder: Path) -> dict[str, Any]:
    """Train a run, keep its network in `folder`, and return its row."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    busy = time.process_time()
    task = TASKS[TASK]
    data = load(task, places)
    model, row = fitted(run, task, data, places.cache)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / run.file)
    options = {"lr": LEARNING_RATE, "preset": PRESET, "ramp_end": RAMP_END}
    facts = {"kind": run.kind, "asked": run.sparsity, "seed": run.seed, "options": options}
    return {"key": run.key, **facts, **row, "cpu_seconds": round(time.process_time() - busy, 1)}


def fitted(run: Run, task: Task, data: Data, cache: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return a finished network with its accuracy on the test set, before and after hardening."""
    model = dense_phase(task, data, run.seed, cache)
    method = Attached() if run.pattern is None else Masks(model, run.pattern, task)
    batches = Batches(data, task.batch, task.augment, run.seed)
    train(model, method, batches, task, LEARNING_RATE, (task.dense_epochs, task.epochs))
    soft = accuracy(model, data.test, data)
    method.finish()
    return model.eval(), {"soft": soft, "accuracy": accuracy(model, data.test, data)}


def stored(run: Run, task: Task, folder: Path) -> nn.Module:
    """Return the network that `trained` kept."""
    model = task.model(run.seed)
    model.load_state_dict(load_file(folder / run.file))
    return model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]
