"""The one training loop: SGD with Nesterov momentum, cosine learning rate, the same batches for all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from benchmarks.pruning_quality.batches import Batches
from benchmarks.pruning_quality.data import Data
from benchmarks.pruning_quality.methods.base import Attached
from benchmarks.pruning_quality.tasks import DENSE_LR, Task


class DivergedError(Exception):
    """The loss is NaN or infinite."""


def train(model: nn.Module, method: Attached, batches: Batches, task: Task, lr: float, epochs: tuple[int, int]) -> None:
    """Train the epochs ``epochs[0] .. epochs[1] - 1`` of a run, in place.

    The learning rate is ``lr (1 + cos(pi p)) / 2`` at progress p of the *whole* run. Momentum starts
    from zero, for every method alike.

    Raises:
        DivergedError: when the loss is not finite.
    """
    optimizer = _optimizer(model, method, task, lr)
    total = task.epochs * batches.per_epoch
    model.train()
    for epoch in range(*epochs):
        for index, (images, labels) in enumerate(batches.epoch(epoch)):
            done = epoch * batches.per_epoch + index
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * done / total)) / 2
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            torch.autograd.backward(loss)
            method.gradients()
            optimizer.step()
            if method.step((done + 1) / total, optimizer):
                optimizer = _optimizer(model, method, task, lr)
        if not math.isfinite(float(loss.detach())):
            raise DivergedError(f"the loss of epoch {epoch} is {float(loss.detach())}")


def dense_phase(task: Task, data: Data, seed: int, cache: Path) -> nn.Module:
    """Return the network after the dense phase of this seed, trained once and kept in `cache`."""
    model = task.model(seed)
    path = cache / f"{task.name}-{_recipe(task)}-{seed}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model
    train(model, Attached(), Batches(data, task.batch, task.augment, seed), task, DENSE_LR, (0, task.dense_epochs))
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{id(model)}.part")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, part)
    part.replace(path)
    return model


def _recipe(task: Task) -> str:
    return f"{task.train_size}x{task.epochs}x{task.dense_epochs}b{task.batch}d{task.decay:g}"


def _optimizer(model: nn.Module, method: Attached, task: Task, lr: float) -> torch.optim.SGD:
    """Return the optimizer; BatchNorm and biases do not decay."""
    extra = method.groups()
    theirs = {id(parameter) for group in extra for parameter in group["params"]}
    own = [parameter for parameter in model.parameters() if id(parameter) not in theirs]
    groups: list[dict[str, Any]] = [
        {"params": [item for item in own if item.dim() > 1], "weight_decay": task.decay},
        {"params": [item for item in own if item.dim() <= 1], "weight_decay": 0.0},
        *extra,
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
