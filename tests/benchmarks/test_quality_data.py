"""Data of the quality benchmark: IDX files, the split, and batches."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from toy import TASK, data

from benchmarks.pruning_quality.batches import Batches, to_input
from benchmarks.pruning_quality.data import DataMissingError, load, read_idx, split


def write_idx(path, shape, payload, magic=b"\0\0\x08"):
    """Write a gzipped IDX file with any header and any payload."""
    header = magic + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    path.write_bytes(gzip.compress(header + payload))
    return path


def test_idx_is_read_as_written(tmp_path):
    """Axes in the wrong order would transpose every image."""
    path = write_idx(tmp_path / "x.gz", (2, 3, 2), bytes(range(12)))
    assert read_idx(path).tolist() == np.arange(12).reshape(2, 3, 2).tolist()


@pytest.mark.parametrize(
    ("shape", "payload", "magic"),
    [
        ((2, 3), bytes(5), b"\0\0\x08"),
        ((2, 3), bytes(7), b"\0\0\x08"),
        ((2**31, 2**31), bytes(4), b"\0\0\x08"),
        ((2,), bytes(2), b"\0\0\x0d"),
        ((2,), bytes(2), b"\1\0\x08"),
        ((1, 1, 1, 1), bytes(1), b"\0\0\x08"),
    ],
)
def test_damaged_idx_is_refused(tmp_path, shape, payload, magic):
    """Lengths from a file must not be believed."""
    with pytest.raises(DataMissingError):
        read_idx(write_idx(tmp_path / "x.gz", shape, payload, magic))


def test_missing_data_says_what_to_do(tmp_path):
    """A benchmark without its data must name the package, or the option."""
    with pytest.raises(DataMissingError, match="apt-get install dataset-fashion-mnist"):
        load("fashion", 100, 100, tmp_path, tmp_path)
    with pytest.raises(DataMissingError, match="--data-dir"):
        load("cifar", 100, 100, tmp_path, tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(DataMissingError, match="apt-get"):
        load("fashion", 100, 100, tmp_path, tmp_path)


def test_split_is_stratified_disjoint_and_fixed():
    """Tuning on training images would choose what overfits."""
    labels = np.random.default_rng(0).integers(0, 10, 2000)
    train, tuning = split(labels, 500, 300)
    assert not set(train) & set(tuning)
    assert np.bincount(labels[train]).tolist() == [50] * 10
    assert np.bincount(labels[tuning]).tolist() == [30] * 10
    assert np.array_equal(train, split(labels, 500, 300)[0])
    with pytest.raises(DataMissingError, match="the split needs"):
        split(labels, 1900, 300)


def test_batches_do_not_depend_on_other_random_numbers():
    """A method that draws random numbers must not change what the others see."""
    first = list(Batches(data(), 32, True, 7).epoch(3))
    torch.rand(100)
    second = list(Batches(data(), 32, True, 7).epoch(3))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], next(iter(Batches(data(), 32, True, 8).epoch(3)))[0])


def test_crops_are_windows_of_the_padded_image():
    """Each augmented image must be a shifted, possibly mirrored view of its own image."""
    toy = data()
    batches = Batches(toy, 8, True, 0)
    chosen = torch.arange(8)
    crops = batches._crops(chosen, torch.Generator().manual_seed(1))
    size = TASK.size
    for index, crop in zip(chosen, crops, strict=True):
        windows = [batches.images[index, top : top + size, left : left + size] for top in range(9) for left in range(9)]
        assert any(torch.equal(crop, window) or torch.equal(crop, window.flip(1)) for window in windows)


def test_input_is_normalised_and_has_three_channels():
    """Grey images are repeated, colour images are not."""
    toy = data()
    image = to_input(toy.train.images[:4], toy)
    assert image.shape == (4, 3, TASK.size, TASK.size)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(image[0, 0], (toy.train.images[0, :, :, 0].float() - 128) / 64)
