"""A toy task: ten coloured textures, one small network, seconds of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.pruning_quality.batches import Batches
from benchmarks.pruning_quality.data import Data, Part
from benchmarks.pruning_quality.loop import train
from benchmarks.pruning_quality.methods.base import Attached, Setting
from benchmarks.pruning_quality.methods.registry import METHODS
from benchmarks.pruning_quality.tasks import Task

SIZE = 8


def net() -> nn.Module:
    """Four convolutions with BatchNorm; the first one and the classifier stay dense."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


TASK = Task("toy", "toy", net, SIZE, False, 320, 100, epochs=10, dense_epochs=2, batch=32)


def data() -> Data:
    """Images whose class is their texture, with noise; the same on every call."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 256, (10, SIZE, SIZE, 3), generator=generator)

    def part(count: int) -> Part:
        labels = torch.arange(count) % 10
        noise = torch.randint(-60, 61, (count, SIZE, SIZE, 3), generator=generator)
        return Part((patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels)

    return Data(part(320), part(100), part(100), torch.full((3,), 128.0), torch.full((3,), 64.0))


def trained(method: str, pattern: str, sparsity: float, **options: Any) -> tuple[nn.Module, Attached]:
    """Train the toy with a method, its first knobs and these options; return the finished network."""
    torch.manual_seed(0)
    model, entry = TASK.model(0), METHODS[method]
    batches = Batches(data(), TASK.batch, TASK.augment, 0)
    chosen = {**entry.fixed, **entry.knobs[0], **options}
    setting = Setting(TASK, pattern, sparsity, chosen, TASK.epochs * batches.per_epoch)
    train(model, Attached(), batches, TASK, 0.05, (0, TASK.dense_epochs))
    attached = entry.build(model, setting)
    train(model, attached, batches, TASK, 0.05, (TASK.dense_epochs, TASK.epochs))
    attached.finish()
    return model, attached
