"""The two data sets, whole in memory as uint8, and their fixed three-way split.

``train`` is what every run trains on, ``tuning`` is another part of the official training data and
chooses hyper-parameters, ``test`` is the official test set and is only used by final runs. The split
is stratified and seeded, so it is the same on every machine.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

CLASSES = 10
SPLIT_SEED = 20_230_511
_IDX_UINT8 = 0x08
_MAX_IDX_BYTES = 1 << 30
_FASHION_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


class DataMissingError(Exception):
    """A data set is not there, or is not what it should be; the text says what to do."""


@dataclass(frozen=True)
class Part:
    """Images (N, H, W, C) uint8 and labels (N,) int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Data:
    """One data set; `mean` and `std` are per channel, of the training part, on the scale 0..255."""

    train: Part
    tuning: Part
    test: Part
    mean: Tensor
    std: Tensor


@cache
def load(name: str, train_size: int, tuning_size: int, data_dir: Path, fashion_dir: Path) -> Data:
    """Return the data set "fashion" or "cifar", loaded once per process.

    Raises:
        DataMissingError: when its files are missing or damaged.
    """
    images, labels, test_images, test_labels = _fashion(fashion_dir) if name == "fashion" else _cifar(data_dir)
    train, tuning = split(labels, train_size, tuning_size)
    pixels = images[train].reshape(-1, images.shape[-1]).astype(np.float64)
    return Data(
        train=_part(images[train], labels[train]),
        tuning=_part(images[tuning], labels[tuning]),
        test=_part(test_images, test_labels),
        mean=torch.tensor(pixels.mean(0), dtype=torch.float32),
        std=torch.tensor(pixels.std(0), dtype=torch.float32),
    )


def split(labels: Array, train_size: int, tuning_size: int) -> tuple[Array, Array]:
    """Return sorted, disjoint positions for training and tuning, each with equal classes.

    Raises:
        DataMissingError: when a class has too few samples.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    train, tuning = [], []
    for label in range(CLASSES):
        order = generator.permutation(np.flatnonzero(labels == label))
        first, second = train_size // CLASSES, tuning_size // CLASSES
        if len(order) < first + second:
            raise DataMissingError(f"class {label} has {len(order)} samples, the split needs {first + second}")
        train.append(order[:first])
        tuning.append(order[first : first + second])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(tuning))


def read_idx(path: Path) -> Bytes:
    """Read one gzipped IDX file of bytes; every length is checked before it is believed.

    Raises:
        DataMissingError: when the file is missing or is no IDX file of unsigned bytes.
    """
    try:
        with gzip.open(path) as file:
            raw = file.read(_MAX_IDX_BYTES + 1)
    except (OSError, EOFError) as error:
        raise DataMissingError(f"{path}: {error}; install it: apt-get install dataset-fashion-mnist") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _IDX_UINT8:
        raise DataMissingError(f"{path} is no IDX file of unsigned bytes")
    rank = raw[3]
    start = 4 + 4 * rank
    if not 1 <= rank <= 3 or len(raw) < start:
        raise DataMissingError(f"{path}: the header promises {rank} dimensions")
    shape = struct.unpack(f">{rank}I", raw[4:start])
    if math.prod(shape) != len(raw) - start:
        raise DataMissingError(f"{path}: the header promises {shape}, the file holds {len(raw) - start} bytes")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _fashion(folder: Path) -> tuple[Array, Array, Array, Array]:
    arrays = [read_idx(folder / f"{name}-ubyte.gz") for name in _FASHION_FILES]
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max() >= CLASSES:
            raise DataMissingError(f"{folder}: images {images.shape} and labels {labels.shape} do not fit together")
    return arrays[0][..., None], arrays[1], arrays[2][..., None], arrays[3]


def _cifar(folder: Path) -> tuple[Array, Array, Array, Array]:
    path = folder / "cifar10_10k_2k.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = tuple(stored[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    except (OSError, ValueError, KeyError) as error:
        raise DataMissingError(f"{path}: {error}; give the folder that holds it with --data-dir") from error
    for images, labels in (arrays[:2], arrays[2:]):
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or labels.shape != images.shape[:1]:
            raise DataMissingError(f"{path}: images {images.shape} {images.dtype} and labels {labels.shape}")
    return arrays[0], arrays[1], arrays[2], arrays[3]


def _part(images: Array, labels: Array) -> Part:
    return Part(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))
