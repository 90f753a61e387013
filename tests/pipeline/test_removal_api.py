"""The public `remove_channels`: costs of the target decide, measured where it can be measured here."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pdp_export as pdp
from pdp_export.errors import ProofError, UsageError
from pdp_export.graph.capture import capture
from pdp_export.pipeline.plan_times import PlanTimes
from pdp_export.pipeline.removal_api import LAYER_BY_LAYER
from pdp_export.pipeline.runtime_proof import prove_in_runtime

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Stream(nn.Module):
    """A stream of which one layer reads a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.a(x), self.b(x)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path))


@pytest.mark.parametrize(
    ("target", "unit"),
    [
        ("onnx", "measured on onnxruntime"),
        ("torch", "measured on torch"),
        ("mnn", "estimated"),
        (None, "estimated"),
    ],
)
def test_costs_are_of_the_target(
    target: str | None, unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan for another runtime can be slower than no plan."""
    # Which whole plan is fastest differs from run to run, and one of them estimates: here they tie.
    timed = PlanTimes.timed
    monkeypatch.setattr(PlanTimes, "timed", lambda self, networks: dict.fromkeys(timed(self, networks), 1.0))
    model = Stream().eval()
    model.a.weight.data[:, 16:] = 0
    result = pdp.remove_channels(model, (X,), target=target)
    assert unit in result.report.cost_of
    assert result.report.plan == (LAYER_BY_LAYER if "measured" in unit else "")
    assert result.report.runtime_proof.startswith(f"{target}: ") is (target is not None)
    assert "not run" not in result.report.runtime_proof
    (choice,) = [item for item in result.report.choices if item.layer == "a"]
    assert any(option.startswith("select") for option in choice.costs)
    assert list(tmp_path.rglob("*.json")) != [] or "estimated" in unit


@pytest.mark.parametrize("target", [pytest.param("onnx", marks=pytest.mark.slow), "torch"])
def test_other_function_in_the_runtime_is_no_result(target: str) -> None:
    """What float64 proved can still be lost in the file: the last proof looks there."""
    model = Stream().eval()
    kept = copy.deepcopy(model)
    model.a.weight.data[0, 0] += 0.1
    result = pdp.remove_channels(kept, (X,))
    with pytest.raises(ProofError, match=f"in the runtime of {target}"):
        prove_in_runtime(model, result, (X,), target)
    model.train()
    assert "limit 1e-05" in prove_in_runtime(model, pdp.remove_channels(model, (X,)), (X,), target)
    assert model.training


def test_measuring_can_be_left_out(tmp_path: Path) -> None:
    """A build machine has other times than the phone, or none to spare."""
    result = pdp.remove_channels(Stream().eval(), (X,), target="torch", measure=False)
    assert "estimated" in result.report.cost_of
    assert list(tmp_path.rglob("*")) == []


def test_own_alignment_counts() -> None:
    """A user who knows the phone's kernels decides."""
    model = Stream().eval()
    model.a.weight.data[:, 10:] = 0
    model.b.weight.data[:, 10:] = 0
    for align, width in ((1, 10), (4, 12), (16, 16)):
        result = pdp.remove_channels(model, (X,), target="torch", align=align)
        assert result.program.state_dict["stem.weight"].shape[0] == width
        assert result.report.align == align


def test_unknown_target() -> None:
    """A typo must not silently mean no target."""
    with pytest.raises(UsageError, match="unknown target 'onxn'"):
        pdp.remove_channels(Stream().eval(), (X,), target="onxn")


def test_network_that_rounds_badly_is_no_error() -> None:
    """Large values that cancel differ by more than 1e-5 in any order of summation; the dense network does so too."""

    class Cancelling(Stream):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            a, b = super().forward(x)
            return a, ((b + 3e5) - 3e5).mean((2, 3))

    model = Cancelling().eval()
    model.a.weight.data[:, 16:] = 0
    proof = pdp.remove_channels(model, (X,), target="torch", measure=False).report.runtime_proof
    assert float(proof.split("limit ")[1]) > 1e-5


@pytest.mark.parametrize("captured", [False, True])
def test_model_in_float64(captured: bool) -> None:
    """The result is float32 on the CPU: a model that is not was fed to it as it was."""
    model = Stream().double().eval()
    model.a.weight.data[:, 16:] = 0
    given = capture(model, (X.double(),)) if captured else model
    result = pdp.remove_channels(given, (X.double(),), target="torch", measure=False)
    assert "limit 1e-05" in result.report.runtime_proof
    assert model.a.weight.dtype is torch.float64
