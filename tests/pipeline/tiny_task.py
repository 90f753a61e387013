"""A network and data that train in a second, with every kind of randomness that a resumed run must repeat."""

from __future__ import annotations

import os
import time
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

CLASSES = 4
PAUSE_S = float(os.environ.get("TINY_PAUSE_S", "0"))  # per sample, for tests that must hit a run in training


def build() -> nn.Module:
    """Two convolutions, (N, 3, 16, 16) -> (N, 4), with dropout before the last layer."""
    layers = OrderedDict(
        stem=nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        stem_norm=nn.BatchNorm2d(16),
        stem_act=nn.ReLU(),
        body=nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        body_norm=nn.BatchNorm2d(32),
        body_act=nn.ReLU(),
        pool=nn.AvgPool2d(2),
        flat=nn.Flatten(),
        drop=nn.Dropout(0.2),
        head=nn.Linear(128, CLASSES),
    )
    return nn.Sequential(layers)


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Mirrors and adds noise by torch's and numpy's global generators."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(PAUSE_S)
        image = self.images[index] + 0.1 * torch.randn(3, 16, 16) + 0.05 * float(np.random.randn())
        return image, self.labels[index]


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with one bright quadrant; the label says which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    images = 0.5 * torch.randn(count, 3, 16, 16, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 8 * (label // 2), 8 * (label % 2)
        image[:, row : row + 8, column : column + 8] += 1
    return images, labels


def load(train: int = 160, validation: int = 64) -> dict[str, DataLoader[tuple[Tensor, Tensor]]]:
    """Return the loaders; the training data is shuffled and augmented."""
    return {
        "train": DataLoader(Augmented(*samples(train, 0)), 32, shuffle=True),
        "validation": DataLoader(TensorDataset(*samples(validation, 1)), 32),
    }
