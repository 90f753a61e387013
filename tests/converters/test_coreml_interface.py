"""Names, types, shapes and options of a Core ML package: what was asked for, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pdp_export.errors import ConversionError, UsageError
from pdp_export.results import TensorSpec
from pdp_export.runtimes import coreml_package
from tests.converters.coreml_networks import BATCH, Lambda, convert


def test_a_dynamic_batch_becomes_a_range_or_the_example(tmp_path: Path):
    """Pins a batch frozen at the captured size, and ranges where fixed shapes were asked for."""
    x = torch.zeros(4, 3, 8, 8)
    convert(tmp_path / "range", nn.Conv2d(3, 4, 3), x, dynamic=BATCH)
    convert(tmp_path / "fixed", nn.Conv2d(3, 4, 3), x, dynamic=BATCH, options={"fixed_shapes": True})
    ranged, fixed = (coreml_package.describe(tmp_path / name) for name in ("range", "fixed"))
    assert (ranged.inputs[0].shape, ranged.inputs[0].dynamic) == ((1, 3, 8, 8), {0: "1..64"})
    assert (ranged.outputs[0].shape, ranged.outputs[0].dynamic) == ((1, 4, 6, 6), {0: "open"})
    assert (fixed.inputs[0].shape, fixed.inputs[0].dynamic) == ((4, 3, 8, 8), {})
    assert (fixed.outputs[0].shape, fixed.outputs[0].dynamic) == ((4, 4, 6, 6), {})


def test_token_inputs_several_outputs_and_two_dynamic_axes(tmp_path: Path):
    """Pins image-only code: int64 ids become int32, each axis has its own range, outputs keep order and type."""
    model = Lambda(
        lambda m, ids: ((h := m[1](m[0](ids))).mean(1), h.argmax(-1)), nn.Embedding(40, 16), nn.Linear(16, 4)
    )
    dynamic = {0: {0: "batch", 1: "tokens"}}
    convert(tmp_path / "p", model, torch.zeros(2, 7, dtype=torch.int64), dynamic=dynamic, outputs=("scores", "best"))
    facts = coreml_package.describe(tmp_path / "p")
    assert (facts.inputs[0].dtype, facts.inputs[0].shape) == ("int32", (1, 7))
    assert facts.inputs[0].dynamic == {0: "1..64", 1: "1..64"}
    assert [(item.name, item.dtype) for item in facts.outputs] == [("scores", "float32"), ("best", "int32")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": ("y", "z")}, "1 outputs"),
        ({"outputs": ("class.scores",)}, "cannot name a Core ML tensor"),
        ({"outputs": ("x0",)}, "input and output"),
        ({"inputs": (TensorSpec(name="x0", shape=(1, 3, 8, 9)),)}, "captured with 8 at axis 3"),
        ({"inputs": (TensorSpec(name="x0", shape=(1, 3, 8)),)}, "4 axes in the program"),
        ({"inputs": ()}, "1 inputs"),
        ({"precision": "int8"}, "no precision 'int8'"),
        ({"encoding": "gap8"}, "no encoding 'gap8'"),
    ],
)
def test_a_request_that_does_not_fit_the_program_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    """Pins a package whose names or shapes are not those of the recipe."""
    with pytest.raises((ConversionError, UsageError), match=message):
        convert(tmp_path / "p", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), **changes)


@pytest.mark.parametrize(
    ("function", "outputs", "message"),
    [
        (lambda m, x: m[0](x) > 0, ("y",), "torch.bool"),
        (lambda m, x: (m[0](x),) * 2, ("y", "z"), "were asked for"),
    ],
)
def test_outputs_that_core_ml_cannot_return_are_refused(tmp_path: Path, function, outputs, message: str):
    """Pins a renamed or retyped output: one tensor under two names, a truth value."""
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "p", Lambda(function, nn.Conv2d(3, 4, 3)), torch.zeros(1, 3, 8, 8), outputs=outputs)


@pytest.mark.parametrize(
    "options", [{"min_ios": 15}, {"min_ios": "16"}, {"min_ios": True}, {"fixed_shapes": 1}, {"min_oss": 16}]
)
def test_a_wrong_option_is_refused(tmp_path: Path, options: dict[str, Any]):
    """Pins a deployment target that silently drops the sparse encoding (iOS 15), and typing mistakes."""
    with pytest.raises(UsageError, match=next(iter(options))):
        convert(tmp_path / "p", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), options=options)
