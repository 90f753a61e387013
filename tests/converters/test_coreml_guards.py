"""Faults that coremltools commits silently: refused by us, and still there upstream."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from pdp_export.converters import coreml_export
from pdp_export.converters.coreml_guards import FAULTS, refuse_non_finite, refuse_silent_faults
from pdp_export.converters.coreml_quiet import quiet
from pdp_export.errors import ConversionError
from pdp_export.graph.capture import capture
from pdp_export.results import TensorSpec
from pdp_export.runtimes import coreml_package
from pdp_export.targets import ConvertRequest

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
Function = Callable[[torch.Tensor], torch.Tensor]

# Operator, the call that goes wrong, and the call it is turned into.
CASES: list[tuple[str, Function, Function]] = [
    ("gelu", lambda x: F.gelu(x, approximate="tanh"), F.gelu),
    ("add", lambda x: torch.add(x, x * 2, alpha=3), lambda x: torch.add(x, x * 2)),
    ("sub", lambda x: torch.sub(x, x * 2, alpha=3), lambda x: torch.sub(x, x * 2)),
    ("rsub", lambda x: torch.rsub(x, x * 2, alpha=3), lambda x: torch.rsub(x, x * 2)),
    ("softplus", lambda x: F.softplus(x, threshold=1), F.softplus),
    (
        "_upsample_bilinear2d_aa",
        lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True),
        lambda x: F.interpolate(x, size=(4, 4), mode="bilinear"),
    ),
]


class Call(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _program(function: Function) -> ExportedProgram:
    return capture(nn.Sequential(Call(function)), (X,))


def _as_converted(function: Function) -> str:
    """Return the text of the MIL program without the names of blocks and results."""
    with quiet():
        import coremltools as ct

        target = ct.target.iOS16
        text = str(ct.convert(_program(function), convert_to="milinternal", minimum_deployment_target=target))
    text = re.sub(r'name="[^"]*"|block\d+', "", text)
    names = dict.fromkeys(re.findall(r"%[\w@]+", text))
    for number, name in enumerate(names):
        text = re.sub(rf"{re.escape(name)}(?!\w)", f"%v{number}", text)
    return text


def test_every_fault_has_a_case():
    """Pins a rule that nobody would remove when upstream is repaired."""
    assert sorted(fault.operator for fault in FAULTS) == sorted(operator for operator, _, _ in CASES)


@pytest.mark.parametrize(("operator", "wrong", "becomes"), CASES, ids=[case[0] for case in CASES])
def test_a_faulty_call_is_refused_with_its_layer(operator: str, wrong: Function, becomes: Function):
    """Pins a package that computes another function than the model, and a guard that refuses the harmless call."""
    with pytest.raises(ConversionError, match=operator) as caught:
        refuse_silent_faults(_program(wrong))
    assert caught.value.where is not None
    assert caught.value.where.startswith("0 (")
    assert caught.value.hint
    if operator != "_upsample_bilinear2d_aa":
        refuse_silent_faults(_program(becomes))


@pytest.mark.parametrize(("operator", "wrong", "becomes"), CASES, ids=[case[0] for case in CASES])
def test_upstream_still_has_the_fault(operator: str, wrong: Function, becomes: Function):
    """Pins that the rule is still needed: once coremltools tells the two calls apart as torch does, delete it."""
    assert not torch.allclose(wrong(X), becomes(X), atol=1e-5), operator
    assert _as_converted(wrong) == _as_converted(becomes)


def test_other_options_are_told_apart():
    """Pins a comparison of texts that would call everything equal."""
    assert _as_converted(lambda x: F.leaky_relu(x, 0.1)) != _as_converted(lambda x: F.leaky_relu(x, 0.2))


def test_the_converter_asks_the_guards(tmp_path: Path):
    """Pins guards that exist and are not called."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(approximate="tanh")).eval()
    request = ConvertRequest(inputs=(TensorSpec(name="x", shape=tuple(X.shape)),), outputs=("y",))
    with pytest.raises(ConversionError, match="tanh form of GELU") as caught:
        coreml_export.convert(capture(model, (X,)), tmp_path / "p", request)
    assert caught.value.where == "1 (gelu)"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(value: float):
    """Pins NaN written into a package."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = value
    with pytest.raises(ConversionError, match="NaN or infinite") as caught:
        refuse_non_finite(capture(model, (X,)))
    assert caught.value.where == "0.weight"


@pytest.mark.parametrize("target", [None, "iOS15"])
def test_upstream_default_pruning_still_does_nothing_for_old_targets(target: str | None):
    """Pins why the converter has a pass of its own: coremltools' own pruning stores everything dense, in silence."""
    model = nn.Sequential(nn.Conv2d(16, 64, 3)).eval()
    with torch.no_grad():
        model[0].weight[model[0].weight.abs() < 0.06] = 0
    with quiet():
        import coremltools as ct

        program = ct.convert(
            capture(model, (torch.zeros(1, 16, 8, 8),)), pass_pipeline=ct.PassPipeline.DEFAULT_PRUNING,
            minimum_deployment_target=getattr(ct.target, target) if target else None, skip_model_load=True,
        ).get_spec().mlProgram  # fmt: skip
    function = program.functions["main"]
    operators = {op.type for op in function.block_specializations[function.opset].operations}
    assert "constexpr_sparse_to_dense" not in operators


def test_upstream_still_cannot_trace_with_new_numpy():
    """Pins why the converter never traces: an ``int`` operator breaks on numpy 2.4 and later."""
    import numpy as np

    if tuple(map(int, np.__version__.split(".")[:2])) < (2, 4):
        pytest.skip("numpy is older")

    class Sizes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0], x.shape[1] * x.shape[2])

    with quiet():
        import coremltools as ct

        traced = torch.jit.trace(Sizes().eval(), torch.zeros(2, 3, 4))
        with pytest.raises(TypeError, match="only 0-dimensional arrays"):
            ct.convert(traced, inputs=[ct.TensorType(shape=(2, 3, 4))], skip_model_load=True)


def test_masks_of_hugging_face_encoders_are_converted(tmp_path: Path):
    """Pins `new_ones`, which coremltools cannot convert and every BERT of transformers holds."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) * x.new_ones((2, 4)) + x.new_zeros((2, 4))

    model, x = Masked().eval(), torch.randn(2, 4)
    program = capture(model, (x,))
    request = ConvertRequest(inputs=(TensorSpec(name="x", shape=(2, 4)),), outputs=("y",), precision="fp32")
    coreml_export.convert(program, tmp_path / "p", request)
    got = coreml_package.open_session(tmp_path / "p").run({"x": x.numpy()})["y"]
    assert torch.allclose(torch.from_numpy(got), model(x), atol=1e-6)
