"""Images in class folders: what is read, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sample_models.imagenet import MEAN, STD, ClassFolders, _random_box, loaders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: dark and bright images of several sizes and modes."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 6), ("val", 2)):
        for name, grey in (("bright", 230), ("dark", 20)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((40 + 7 * index, 60, 3), grey, dtype=np.uint8)
                image = Image.fromarray(pixels)
                image = image.convert("L") if index == 0 else image
                image.save(root / split / name / f"{index}.{'png' if index % 2 else 'JPEG'}")
    return root


def test_loaders_give_normalised_images_with_their_class(folder: Path):
    """Labels that are not the sorted classes, or pixels on another scale, train a useless network in silence."""
    found = loaders(str(folder), batch_size=4, size=32, workers=0)
    images, labels = next(iter(found["validation"]))
    assert images.shape == (4, 3, 32, 32)
    assert labels.tolist() == [0, 0, 1, 1]
    bright = (torch.tensor(230 / 255) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(images[0].mean((1, 2)), bright, atol=0.02, rtol=0)
    images, labels = next(iter(found["train"]))
    assert images.shape == (4, 3, 32, 32)
    assert ((images.mean((1, 2, 3)) > 0).long() == 1 - labels).all()


def test_calibration_sees_every_class(folder: Path):
    """The first images of a sorted folder are all of one class."""
    found = loaders(str(folder), batch_size=4, size=32, workers=0, calibration=4)
    assert {int(label) for _, labels in found["calibration"] for label in labels} == {0, 1}


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60), (1, 500), (500, 1), (3, 3)])
def test_random_boxes_lie_inside(width: int, height: int):
    """A box beyond the edge makes Pillow pad or fail, once in a million images."""
    torch.manual_seed(0)
    for _ in range(300):
        left, top, right, bottom = _random_box(width, height)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_what_is_missing_is_named(tmp_path: Path):
    """A wrong path must say which folder was expected."""
    with pytest.raises(ValueError, match=r"data\.arguments\.folder"):
        loaders()
    with pytest.raises(FileNotFoundError, match=r"train holds no class folders"):
        loaders(str(tmp_path))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="train/cat holds no image"):
        ClassFolders(tmp_path / "train", 32, augment=False)


def test_classes_of_train_and_val_must_agree(folder: Path, tmp_path: Path):
    """One class too many in val shifts every label after it."""
    (tmp_path / "train").symlink_to(folder / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "bright").symlink_to(folder / "val" / "bright")
    with pytest.raises(ValueError, match="different classes: dark"):
        loaders(str(tmp_path))
