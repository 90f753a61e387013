"""Whole networks are timed in the runtime that was asked for, whichever exporter wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pdp_export.costs import onnx_networks
from pdp_export.costs.measured import measured
from pdp_export.pipeline.plan_times import PlanTimes
from pdp_export.removal.costs import Macs, Never
from pdp_export.removal.simplification import prepare
from pdp_export.removal.whole_plans import remove_by_best
from tests.removal.test_narrowing import Stream

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("runtime", "quick"), [("onnxruntime", True), ("onnxruntime", False), ("torch", True)])
def test_every_plan_gets_a_time(runtime: str, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that only the newer exporter can write must be timed all the same, and its rivals with it."""
    if not quick:
        monkeypatch.setattr(onnx_networks, "quick_onnx", lambda *_: None)
    model = Stream(width=16).eval()
    model.a.weight.data[:, :12] = 0
    layers = measured(runtime, threads=torch.get_num_threads() if runtime == "torch" else 1, folder=tmp_path)
    _, report = remove_by_best(
        prepare(model, (X,), None), {"never": Never(), "always": Macs()}, PlanTimes(layers), stage="test"
    )
    assert set(report.plans) == {"never", "always"}
    assert all(time > 0 for time in report.plans.values())
