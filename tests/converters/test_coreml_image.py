"""Packages that take pixels or return labels, executed on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pdp_export.errors import UsageError
from pdp_export.runtimes import coreml_package
from pdp_export.validation.feeding import run_batches
from tests.converters.coreml_networks import BATCH, Lambda, convert

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = {
    "pdp_export.mean": json.dumps(MEAN), "pdp_export.std": json.dumps(STD), "pdp_export.scale": "255.0",
    "pdp_export.colour": '"BGR"', "pdp_export.labels": '["cat", "dog", "eel", "fox"]',
}  # fmt: skip
IMAGE = torch.zeros(4, 3, 8, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8)).astype(np.float32)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()


def _normalized() -> torch.Tensor:
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(PIXELS) / 255 - mean) / std


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_pixels_are_scaled_in_the_package_as_the_recipe_says(tmp_path: Path, precision: str):
    """Pins a mean, a deviation or a colour order lost on the way into the package, per channel."""
    model = _model()
    convert(tmp_path / "p", model, IMAGE, dynamic=BATCH, precision=precision, options={"image_input": True},
            metadata=PREPROCESSING)  # fmt: skip
    facts = coreml_package.describe(tmp_path / "p")
    (spec,) = facts.inputs
    assert (spec.shape, spec.dynamic, spec.layout) == ((1, 3, 8, 8), {}, "NCHW")
    assert any("an image, BGR, 8 x 8" in note for note in facts.notes)
    with torch.no_grad():
        expected = model(_normalized()).numpy()
    session = coreml_package.open_session(tmp_path / "p")
    atol = {"fp16": 5e-3, "fp32": 1e-5}[precision] * np.abs(expected).max()
    assert np.abs(session.run({"x0": PIXELS})["y"] - expected).max() < atol
    fed = run_batches(session, {"x0": _normalized().numpy()}, ["y"])  # validation feeds what the model takes
    assert np.abs(fed["y"] - expected).max() < atol


def test_a_classifier_returns_labels_and_scores_in_their_order(tmp_path: Path):
    """Pins labels sorted, shifted or lost, and a batch that a classifier of Core ML cannot take."""
    model = _model()
    convert(tmp_path / "p", model, IMAGE, dynamic=BATCH, precision="fp32", options={"classifier": True},
            metadata=PREPROCESSING)  # fmt: skip
    facts = coreml_package.describe(tmp_path / "p")
    assert [(item.name, item.shape) for item in facts.outputs] == [("classLabel_probs", (1, 4))]
    assert any("4 labels, from 'cat' to 'fox'" in note for note in facts.notes)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = model(images).numpy()
    session: Any = coreml_package.open_session(tmp_path / "p")
    got = run_batches(session, {"x0": images.numpy()}, ["logits"])["logits"]
    assert np.abs(got - expected).max() < 1e-4
    raw = session._interpreter.run({"x0": images[:1].numpy()})
    assert raw["classLabel"] == ["cat", "dog", "eel", "fox"][int(expected[0].argmax())]
    assert list(raw["classLabel_probs"]) == ["cat", "dog", "eel", "fox"]


@pytest.mark.parametrize(
    ("options", "metadata", "message"),
    [
        ({"image_input": True}, {}, "colour is None"),
        ({"image_input": True}, {**PREPROCESSING, "pdp_export.colour": '"GRAY"'}, "has 3 channels"),
        ({"image_input": True}, {**PREPROCESSING, "pdp_export.std": "[1, 2]"}, "2 entries for 3 channels"),
        ({"image_input": True}, {**PREPROCESSING, "pdp_export.mean": "[1,"}, "is no JSON"),
        ({"classifier": True}, {}, "there are 0"),
        ({"classifier": True}, {"pdp_export.labels": '["a", "a"]'}, "one different label"),
        ({"image_input": 1}, PREPROCESSING, "option image_input is 1"),
    ],
)
def test_what_the_recipe_does_not_say_is_not_guessed(tmp_path: Path, options, metadata, message: str):
    """Pins an image package with the wrong colours or scale, and labels that fit no class."""
    with pytest.raises(UsageError, match=message):
        convert(tmp_path / "p", _model(), IMAGE, dynamic=BATCH, options=options, metadata=metadata)
    assert not (tmp_path / "p").exists()


def test_two_outputs_are_no_classifier(tmp_path: Path):
    """Pins a classifier over the first output, the second one lost."""
    model = Lambda(lambda m, x: (m[0](x), m[0](x) * 2), _model())
    with pytest.raises(UsageError, match="this model 2"):
        convert(tmp_path / "p", model, IMAGE, outputs=("a", "b"), options={"classifier": True}, metadata=PREPROCESSING)
