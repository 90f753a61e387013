"""What channel removal writes into a program, every converter must read: gathers, padding, constants in places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import pdp_export as pdp
from pdp_export.results import Verdict
from tests.removal.networks import kill, randomised
from tests.removal.test_hard_cases import Net, shuffled
from tests.removal.test_narrowing import Stream

SUFFIXES = {"onnx": ".onnx", "coreml": ".mlpackage", "litert": ".tflite", "mnn": ".mnn"}


def narrow() -> nn.Module:
    model = randomised(Stream(16))
    model.a.weight.data[:, [0, 1, 5]] = 0
    model.a.weight.data[[1, 2]] = 0
    kill(model.b, 0, 3, 5)
    return model


def shuffle() -> nn.Module:
    model = Net(lambda self, x: self.b(shuffled(self.a(x), 2)), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 2, 1))
    kill(model.a, 1, 2, 6)
    return model


@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("build", [narrow, pytest.param(shuffle, marks=pytest.mark.slow)])
def test_converted_and_opened_again(target: str, build: Callable[[], nn.Module], tmp_path: Path) -> None:
    """A gather that one runtime cannot read would only show on the phone."""
    model, x = build(), torch.randn(2, 3, 12, 12)
    removed = pdp.remove_channels(model, (x,), objective="macs")
    assert any("index_select" in str(node.target) for node in removed.program.graph.nodes)
    artifact = pdp.convert(removed.program, tmp_path / f"model{SUFFIXES[target]}", target=target)
    verdict = pdp.validate(artifact, reference=removed.program, inputs=x)
    assert verdict.verdict is Verdict.PASS


def test_removal_for_core_ml_is_proven_in_float32() -> None:
    """Pins a proof that is not run off macOS, or fails on the rounding of float16 packages."""
    removed = pdp.remove_channels(narrow(), (torch.randn(2, 3, 12, 12),), target="coreml")
    assert "of max|y|, limit 1e-05" in removed.report.runtime_proof
