"""ImageNet, or any images in class folders, read with Pillow from a folder that you name.

Expected are ``train/<class>/*`` and ``val/<class>/*`` with the same classes in both; a class's label is its
position in the sorted list. Nothing is downloaded.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp"}
_CENTRE = 0.875  # of the shorter side: the usual 224 out of 256
_SCALE, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # random resized crop, Szegedy et al. 2014

Box = tuple[float, float, float, float]


class ClassFolders(Dataset[tuple[Tensor, int]]):
    """Images (3, size, size), normalised, with their labels; `augment` crops at random and mirrors.

    Raises:
        FileNotFoundError: without class folders, or for a class without images.
    """

    def __init__(self, folder: Path, size: int, augment: bool) -> None:
        self.size, self.augment = size, augment
        self.classes = sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []
        if not self.classes:
            raise FileNotFoundError(f"{folder} holds no class folders; expected are {folder.name}/<class>/<image>")
        self.samples: list[tuple[Path, int]] = []
        for label, name in enumerate(self.classes):
            images = sorted(item for item in (folder / name).iterdir() if item.suffix.lower() in _SUFFIXES)
            if not images:
                raise FileNotFoundError(f"the class {folder.name}/{name} holds no image")
            self.samples += [(path, label) for path in images]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        with Image.open(path) as file:
            image = file.convert("RGB")
        box = _random_box(image.width, image.height) if self.augment else _centre_box(image.width, image.height)
        pixels = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if self.augment and torch.rand(()) < 0.5:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        values = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
        return (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), label


def loaders(
    folder: str | None = None, batch_size: int = 32, size: int = 224, workers: int = 8, calibration: int = 2048
) -> dict[str, Any]:
    """Return train (augmented, shuffled), validation (centre crop) and calibration loaders.

    Under torchrun each process takes every n-th batch: the batch of one step is `batch_size` times the number of
    processes. Calibration takes evenly spaced training images, without augmentation.

    Raises:
        ValueError: without a folder, or when the classes of train and val differ.
        FileNotFoundError: when the folder does not hold what it should.
    """
    if not folder:
        raise ValueError("name your ImageNet in the recipe: data.arguments.folder, which holds train/ and val/")
    root = Path(folder)
    train = ClassFolders(root / "train", size, augment=True)
    validation = ClassFolders(root / "val", size, augment=False)
    if train.classes != validation.classes:
        differing = sorted(set(train.classes) ^ set(validation.classes))
        raise ValueError(f"train/ and val/ hold different classes: {', '.join(differing[:5])}")
    plain = ClassFolders(root / "train", size, augment=False)
    spaced = Subset(plain, range(0, len(plain), max(1, len(plain) // calibration)))
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": workers > 0}
    return {
        "train": DataLoader(train, batch_size, shuffle=True, drop_last=True, **options),
        "validation": DataLoader(validation, batch_size, **options),
        "calibration": DataLoader(spaced, batch_size, **options),
    }


def _centre_box(width: int, height: int) -> Box:
    side = _CENTRE * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_box(width: int, height: int) -> Box:
    """Return a box of random area and aspect ratio; the centre where none of ten fits."""
    for _ in range(_TRIES):
        area = width * height * float(torch.empty(()).uniform_(*_SCALE))
        ratio = math.exp(float(torch.empty(()).uniform_(math.log(_RATIO[0]), math.log(_RATIO[1]))))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(torch.randint(0, width - w + 1, ()))
            top = int(torch.randint(0, height - h + 1, ()))
            return left, top, left + w, top + h
    return _centre_box(width, height)
