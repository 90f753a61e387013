"""What a converter would refuse after training is refused before it, by the same words, without its heavy libraries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pdp_export.converters import registry
from pdp_export.errors import ConversionError, PdpExportError, UsageError
from pdp_export.graph.capture import capture
from pdp_export.results import TensorSpec
from pdp_export.targets import ConvertRequest

IMAGE = TensorSpec(name="image", shape=(1, 3, 8, 8), dynamic={0: "batch"}, layout="NCHW")
ALL = tuple(registry.MODULES)


def image_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def program_of(model: nn.Module, *inputs: torch.Tensor, dynamic: bool = True) -> Any:
    found = inputs or (torch.zeros(2, 3, 8, 8),)
    axes = {index: {0: "batch"} for index in range(len(found))} if dynamic else None
    return capture(model, found, axes)


def asked(target: str, **changes: Any) -> ConvertRequest:
    precision = registry.load(target).TARGET.precisions[0]
    return ConvertRequest(**{"inputs": (IMAGE,), "outputs": ("y",), "precision": precision, **changes})


class Masked(nn.Module):
    """Adds a buffer with infinities, as a causal mask does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mask


class Two(nn.Module):
    """Adds two inputs of the same batch size."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


@pytest.mark.parametrize("pattern", ["unstructured", "channel"])
@pytest.mark.parametrize("target", ALL)
def test_what_can_be_converted_is_let_through(target: str, pattern: str):
    """Pins a check that refuses a good run: BatchNorm is not folded yet, an uninitialised weight will be loaded."""
    model = image_net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = torch.nan
    registry.load(target).check(program_of(model), asked(target), pattern)


CASES: list[tuple[str, Callable[[], Any], Mapping[str, Any], type[PdpExportError], str]] = [
    ("onnx", image_net, {"options": {"opset": 99}}, UsageError, "opset 99 is not one of"),
    ("onnx", lambda: image_net().double(), {}, ConversionError, "is float64, not float32"),
    ("coreml", image_net, {"options": {"min_ios": 15}}, UsageError, "option min_ios is 15"),
    ("coreml", image_net, {"options": {"fixed_shapes": "yes"}}, UsageError, "option fixed_shapes is 'yes'"),
    ("coreml", lambda: nn.GELU(approximate="tanh"), {}, ConversionError, "tanh form of GELU"),
    ("coreml", Masked, {}, ConversionError, "NaN or infinite"),
    ("coreml", image_net, {"outputs": ("class.y",)}, ConversionError, "cannot name a Core ML tensor"),
    ("litert", image_net, {"options": {"layout": "nwhc"}}, UsageError, "layout 'nwhc' does not exist"),
    ("mnn", lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3)), {}, ConversionError, "convolution over 1 axes"),
    *((name, image_net, {"precision": "int3"}, UsageError, "no precision 'int3'") for name in ALL),
    *((name, image_net, {"encoding": "zip"}, UsageError, "no encoding 'zip'") for name in ALL),
    *((name, image_net, {"options": {"colour": 1}}, UsageError, "no option 'colour'") for name in ALL),
    *((name, image_net, {"outputs": ("y", "z")}, PdpExportError, "1 outputs") for name in ALL),
    *((name, image_net, {"inputs": ()}, PdpExportError, "1 inputs") for name in ALL),
]


@pytest.mark.parametrize(("target", "model", "changes", "kind", "told"), CASES)
def test_the_check_says_what_the_conversion_would_say(
    tmp_path: Path, target: str, model: Callable[[], nn.Module], changes: Mapping[str, Any], kind: Any, told: str
):
    """Pins a refusal that comes after an hour of training, or in other words than the converter's own."""
    built = model()
    width = next((item.dtype for item in built.parameters()), torch.float32)
    program = program_of(built, torch.zeros(2, 3, 8, 8, dtype=width))
    converter, request = registry.load(target), asked(target, **changes)
    with pytest.raises(kind, match=told) as early:
        converter.check(program, request, "unstructured")
    with pytest.raises(kind) as late:
        converter.convert(program, tmp_path / "file", request)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("target", ["onnx", "mnn"])
def test_an_axis_that_the_program_fixes(target: str):
    """Pins a file that runs at one batch size only, found out after training."""
    program = program_of(image_net(), dynamic=False)
    with pytest.raises(ConversionError, match="axis 0 of input 'image' shall be dynamic"):
        registry.load(target).check(program, asked(target), "channel")


def test_a_size_that_core_ml_cannot_take():
    """Pins a shape of the recipe that differs from the captured one, found out after training."""
    program = program_of(image_net())
    wrong = IMAGE.model_copy(update={"shape": (1, 3, 8, 9)})
    with pytest.raises(ConversionError, match="captured with 8 at axis 3"):
        registry.load("coreml").check(program, asked("coreml", inputs=(wrong,)), "unstructured")


def test_two_names_for_one_size():
    """Pins a clash of axis names that only the finished ONNX graph showed."""
    specs = tuple(TensorSpec(name=name, shape=(1, 4), dynamic={0: f"n_{name}"}) for name in "xy")
    program = capture(Two(), (torch.zeros(2, 4), torch.zeros(2, 4)), {0: {0: "n"}, 1: {0: "n"}})
    with pytest.raises(UsageError, match="ties it to an axis named 'n_x'"):
        registry.load("onnx").check(program, asked("onnx", inputs=specs), "unstructured")


NEED_NO_ZEROS = ("auto", "dense", "int8", "palette4", "palette6", "palette8")
EXPLICIT = [(name, encoding) for name in ALL for encoding in registry.load(name).TARGET.encodings]


@pytest.mark.parametrize(("target", "encoding"), [pair for pair in EXPLICIT if pair[1] not in NEED_NO_ZEROS])
def test_a_sparse_encoding_without_zeros_to_encode(target: str, encoding: str):
    """Pins a sparse file that was asked for, and a dense one that is written: channel removal leaves no zeros."""
    program = program_of(image_net())
    request = asked(target, encoding=encoding, options={"min_ios": 18} if target == "coreml" else {})
    with pytest.raises(UsageError, match="dense") as caught:
        registry.load(target).check(program, request, "channel")
    assert caught.value.hint is not None
    assert "encoding: auto" in caught.value.hint
    registry.load(target).check(program, request, "unstructured")


LIBRARIES = ("coremltools", "litert_torch", "ai_edge_litert", "tensorflow", "MNN", "_tools", "onnxscript")


def test_checking_loads_no_converter():
    """Pins a dry run that takes half a minute to import what it does not use."""
    code = (
        "import sys, torch\n"
        "from pdp_export.converters import registry\n"
        "from pdp_export.graph.capture import capture\n"
        "from tests.converters.test_early_checks import asked, image_net, program_of\n"
        "program = program_of(image_net())\n"
        "for name in registry.MODULES: registry.load(name).check(program, asked(name), 'unstructured')\n"
        f"print([name for name in {LIBRARIES} if name in sys.modules])\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
