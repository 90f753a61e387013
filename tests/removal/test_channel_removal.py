"""Removal on whole networks, its report, its refusals, and what other tools make of the result."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from pdp_export.errors import ProofError, UsageError
from pdp_export.graph.archive import load_program, save_program
from pdp_export.graph.capture import capture, quiet_export
from pdp_export.graph.channel_groups import channel_groups
from pdp_export.graph.facts import Facts
from pdp_export.removal import carrying_out, remove_channels
from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.mobilenet_v2 import mobilenet_v2
from sample_models.resnet import resnet_cifar
from tests.removal.networks import Check, kill, randomised

NETS = {
    "mobilenet_v1": (lambda: mobilenet_v1(width=0.25, blocks=4), 32),
    "mobilenet_v2": (lambda: mobilenet_v2(width=0.25), 32),
    "resnet_cifar": (lambda: resnet_cifar(depth=8), 16),
}


def mask_filters(model: nn.Module, ratio: float, affine: bool) -> None:
    """Zero random filters of every ungrouped convolution, with the BatchNorm behind it if `affine`."""
    generator = torch.Generator().manual_seed(1000)
    modules = list(model.modules())
    for layer, norm in pairwise(modules):
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            dead = torch.rand(layer.out_channels, generator=generator) < ratio
            kill(layer, *torch.nonzero(dead).flatten().tolist(), norm=norm if affine else None)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", ["mobilenet_v1", "resnet_cifar", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_random_filter_masks(check: Check, name: str, affine: bool) -> None:
    """Masks that disagree across joins, with BatchNorm shifts (constants) and without."""
    build, size = NETS[name]
    model = randomised(build())
    mask_filters(model, 0.5, affine)
    removed = check(model, torch.randn(2, 3, size, size))
    report = removed.report
    assert report.proof_error <= report.proof_limit == 1e-12
    assert report.parameters_after < (0.5 if affine else 0.9) * report.parameters_before
    assert report.macs_after < report.macs_before
    assert report.removed_filters > 0
    assert not report.nothing_removed
    names = {name for name in removed.program.state_dict if not name.endswith("_order")}
    assert names <= {name for name, _ in model.named_parameters()} | {
        name.replace("weight", "bias") for name, _ in model.named_parameters()
    }


def test_pruned_groups_go_completely(check: Check) -> None:
    """Channels that the pruner may prune by `channel_groups` are exactly those that removal can take out."""
    model = randomised(resnet_cifar(depth=8))
    groups = channel_groups(capture(model, (torch.randn(2, 3, 16, 16),)))
    for group in groups:
        if group.frozen is None:
            for name in (*group.filters, *group.followers):
                model.get_parameter(name).data[: group.channels // 2] = 0
    removed = check(model, torch.randn(2, 3, 16, 16))
    shapes = {layer.weight: layer for layer in removed.report.layers}
    for group in groups:
        for name in group.filters:
            asked = group.channels if group.frozen else group.channels // 2
            assert shapes[name].shape_after[0] == asked
    assert all(layer.kept == 0 for layer in removed.report.layers)


def test_exported_to_onnx_and_reloaded(check: Check, tmp_path: Path) -> None:
    """The result survives torch.onnx.export, the guarded archive, and gives gradients."""
    model = randomised(mobilenet_v1(width=0.25, blocks=4))
    mask_filters(model, 0.4, affine=True)
    removed = check(model, torch.randn(2, 3, 32, 32), batch=True)
    with warnings.catch_warnings(), quiet_export():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; the file is what counts
        torch.onnx.export(removed.program, (), tmp_path / "net.onnx", dynamo=True, verbose=False)
    x = torch.randn(3, 3, 32, 32)
    expected = removed.module(x)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-3, atol=1e-4)
    save_program(removed.program, tmp_path / "net.pt2")
    assert torch.equal(load_program(tmp_path / "net.pt2").module()(x), expected)
    expected.sum().backward()
    assert all(parameter.grad is not None for parameter in removed.module.parameters())


def test_nothing_to_remove_says_so(check: Check) -> None:
    """'Done' with unchanged shapes is the oldest complaint about pruning tools."""
    report = check(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3)).report
    assert "no filter" in report.nothing_removed
    assert report.summary.startswith("nothing removed")
    assert report.parameters_after == report.parameters_before


def test_report_counts(check: Check) -> None:
    """Asked, removed, kept and work are read from the weights, not from a wish."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    kill(model[0], 0, 1)
    report = check(model, torch.randn(2, 3, 8, 8)).report
    first, second = report.layers
    assert (first.layer, first.dead_filters, first.removed_filters, first.shape_after) == ("0", 2, 2, (6, 3, 3, 3))
    assert (second.removed_inputs, second.shape_after) == (2, (4, 6, 3, 3))
    assert report.parameters_before - report.parameters_after == 2 * 27 + 2 + 4 * 2 * 9
    assert report.macs_before == 8 * 27 * 36 + 4 * 72 * 16
    assert report.summary.startswith("2 of 2 layers")


def test_wrong_plan_gives_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that lies must be caught by the proof, which names the first node that differs."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 2, 3))
    truth = carrying_out.channel_facts

    def lie(module: GraphModule) -> Facts:
        facts = truth(module)
        for node in module.graph.nodes:
            if node.name in {"conv2d", "tanh"}:
                facts.constants[node] = torch.full((1, 8, 1, 1), torch.nan, dtype=torch.float64)
                facts.constants[node][0, 3] = 0.0
        return facts

    monkeypatch.setattr(carrying_out, "channel_facts", lie)
    with pytest.raises(ProofError, match="changed the function") as error:
        remove_channels(model, (torch.randn(2, 3, 12, 12),))
    assert error.value.where == "conv2d_1 (aten.conv2d in 2)"


def test_bad_alignment() -> None:
    """align=0 divides by zero."""
    with pytest.raises(UsageError):
        remove_channels(nn.Linear(2, 2), (torch.randn(1, 2),), align=0)
