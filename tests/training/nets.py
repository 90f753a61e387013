"""The small network, data and objective of the training tests; also imported by the processes of torchrun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pdp_export.pruning import Pruner, Unstructured
from pdp_export.recipe import TrainingSection
from pdp_export.training import TrainingResult, train

EPOCHS, STEPS = 3, 6


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Images with random augmentation from torch's and numpy's global generators."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(48, 3, 6, 6, generator=generator)
        self.labels = torch.randint(0, 4, (48,), generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shift = float(np.random.randn()) * 0.1
        return self.images[index] + shift + 0.1 * torch.randn(3, 6, 6), self.labels[index]


@dataclass(frozen=True)
class Data:
    train: Any
    validation: Any


class Classify:
    """Cross-entropy and accuracy."""

    def loss(self, outputs: Any, target: Any) -> Tensor:
        return F.cross_entropy(outputs, target)

    def scores(self, outputs: Any, target: Any) -> Tensor:
        return (outputs.argmax(1) == target).float()


def noisy_data() -> Data:
    data = Noisy()
    return Data(DataLoader(data, 8, shuffle=True), [(data.images[:16], data.labels[:16])])


def fixed_data(batches: int = STEPS) -> Data:
    """The same batches of 8 in the same order every time."""
    data = Noisy()
    parts = [(data.images[8 * i : 8 * i + 8], data.labels[8 * i : 8 * i + 8]) for i in range(batches)]
    return Data(parts, parts[:2])


def dropout_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Dropout(0.4),
        nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def plain_net() -> nn.Sequential:
    """No BatchNorm and no dropout: a step depends on the sum of the gradients alone."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 4))


def masked(model: nn.Module) -> Pruner:
    return Pruner(model, Unstructured(0.5), prune_first=True)


def fit(
    folder: Path, model: nn.Module, pruner: Pruner | None = None, data: Data | None = None, **changes: Any
) -> TrainingResult:
    """Train with keyword arguments of `train`, or keys of the recipe's section."""
    arguments: dict[str, Any] = {"epochs": EPOCHS, "lr": 0.05, "seed": 7, "checkpoint_dir": folder}
    section: dict[str, Any] = {"threads": 1, "device": "cpu", "checkpoint_every_steps": 2}
    section |= {
        key: changes.pop(key) for key in list(changes) if key in TrainingSection.model_fields and key not in arguments
    }
    objective = changes.pop("objective", Classify())
    return train(
        model, data or noisy_data(), objective, TrainingSection(**section), pruner=pruner, **{**arguments, **changes}
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def close(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states differ by rounding only."""
    return first.keys() == second.keys() and all(
        torch.allclose(first[name].float(), second[name].float(), rtol=1e-4, atol=1e-6) for name in first
    )
