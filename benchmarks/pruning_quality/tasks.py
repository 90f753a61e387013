"""The two tasks: a data set, a network, and how long to train; sized for half a minute on one core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.resnet import resnet_cifar

DENSE_LR = 0.1


@dataclass(frozen=True)
class Task:
    """What is trained, and for how long.

    Epochs 0..dense_epochs - 1 are the dense phase that all methods share; `train_size` and
    `tuning_size` count samples, `size` is the edge of the image.
    """

    name: str
    data: str
    build: Callable[[], nn.Module]
    size: int
    augment: bool
    train_size: int
    tuning_size: int
    epochs: int
    dense_epochs: int
    batch: int = 128
    decay: float = 5e-4

    @property
    def warmup(self) -> float:
        """The share of the run that is dense."""
        return self.dense_epochs / self.epochs

    def model(self, seed: int) -> nn.Module:
        """Build the network with this seed's initial weights, channels last."""
        torch.manual_seed(seed)
        return self.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def example(self) -> tuple[Tensor, ...]:
        """Return example inputs of two images."""
        return (torch.zeros(2, 3, self.size, self.size),)


def _resnet8() -> nn.Module:
    """ResNet-8 of width 16; its stem has stride 2, which makes it four times cheaper."""
    model = resnet_cifar(classes=10, depth=8, width=16)
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    stem.stride = (2, 2)
    return model


def _mobilenet() -> nn.Module:
    """The first six blocks of MobileNet-v1 at half width (16 to 256 channels)."""
    return mobilenet_v1(classes=10, width=0.5, blocks=6)


TASKS = {
    task.name: task
    for task in (
        Task("cifar-resnet8", "cifar", _resnet8, 32, True, 8_000, 2_000, epochs=14, dense_epochs=3),
        Task("fashion-mobilenet", "fashion", _mobilenet, 28, False, 12_000, 10_000, epochs=12, dense_epochs=3),
    )
}
