"""Every method of the quality benchmark does what it says, on a toy network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).parent))

from toy import TASK, data, trained

from benchmarks.pruning_quality.batches import accuracy
from benchmarks.pruning_quality.counting import leftovers
from benchmarks.pruning_quality.methods.alternating import AlternatingPhases
from benchmarks.pruning_quality.methods.base import Setting, group_mask, magnitude_masks, prunable
from benchmarks.pruning_quality.methods.presets import Preset
from benchmarks.pruning_quality.methods.registry import METHODS
from benchmarks.pruning_quality.methods.soft_threshold import SoftThreshold
from benchmarks.pruning_quality.methods.sparse_refined import RefinedStraightThrough

QUICK = {"pdp_default", "one_shot"}


def able(pattern):
    """Return the methods for a pattern; most are slow, to train all of them takes a minute."""
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name, entry in METHODS.items()
        if entry.prunes(pattern)
    ]


@pytest.mark.parametrize("method", able("unstructured"))
def test_reaches_the_sparsity_that_was_asked_for(method):
    """A rival that prunes less than it should would look better than it is."""
    model, _ = trained(method, "unstructured", 0.9)
    left = leftovers(model, TASK, "unstructured")
    assert left["sparsity"] == pytest.approx(0.9, abs=0.01 if method == "str" else 0.002)
    assert 0 < left["macs_kept"] < 1
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert accuracy(model, data().test, data()) > 50


@pytest.mark.slow
@pytest.mark.parametrize("method", able("1:4"))
def test_keeps_one_of_four_along_the_input_channels(method):
    """Groups along another axis, or kept and zeroed confused (coremltools counts zeros), are no 1:4."""
    model, _ = trained(method, "1:4", 0.75)
    for layer in prunable(model).values():
        blocks = layer.weight.detach().movedim(1, -1).reshape(-1, 4)
        assert int((blocks != 0).sum(1).max()) == 1
        assert int((blocks != 0).sum()) > 0.9 * len(blocks)
    assert accuracy(model, data().test, data()) > 50


@pytest.mark.parametrize("method", able("channel"))
def test_removes_half_of_the_channels(method):
    """Shares of different groups would make channel pruning tools incomparable."""
    model, _ = trained(method, "channel", 0.5)
    left = leftovers(model, TASK, "channel")
    assert left["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert left["macs_kept"] < 0.6


def test_threshold_gradient_agrees_with_finite_differences():
    """STR learns its threshold from this gradient alone."""
    generator = torch.Generator().manual_seed(1)
    layer = SoftThreshold(-2.0).double()
    weight, direction = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    (gradient,) = torch.autograd.grad((layer(weight) * direction).sum(), layer.s)
    step = 1e-6
    with torch.no_grad():
        layer.s += step
        up = (layer(weight) * direction).sum()
        layer.s -= 2 * step
        down = (layer(weight) * direction).sum()
    assert float(gradient) == pytest.approx(float(up - down) / (2 * step), rel=1e-5)


def test_soft_threshold_shrinks_to_exact_zero():
    """Weights at or under the threshold are zero, the others lose it."""
    layer = SoftThreshold(0.0)  # threshold 1/2
    out = layer(torch.tensor([0.4, -0.5, 0.75, -1.5]))
    assert torch.equal(out, torch.tensor([0.0, 0.0, 0.25, -1.0]))


def test_refined_gradient_pulls_pruned_weights_only():
    """SR-STE is plain straight-through plus the pull; the pull on kept weights would be weight decay."""
    weight = torch.tensor([[4.0, 1.0, -3.0, 2.0]], requires_grad=True)
    out = RefinedStraightThrough.apply(weight, 2, 4, 0.5)
    assert torch.equal(out.detach(), torch.tensor([[4.0, 0.0, -3.0, 0.0]]))
    out.sum().backward()
    assert torch.equal(weight.grad, torch.tensor([[1.0, 1.5, 1.0, 2.0]]))


def test_group_mask_breaks_ties_by_position():
    """Equal weights must still give exactly n of m."""
    mask = group_mask(torch.ones(2, 8, 3, 3), 1, 4)
    assert torch.equal(mask[0, :, 0, 0], torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0]))


def test_magnitude_masks_rank_all_layers_together():
    """Uniform ratios would be another method."""
    small, large = torch.full((10, 10), 0.1), torch.full((10, 10), 1.0)
    masks = magnitude_masks([small + torch.arange(100).view(10, 10) / 1e4, large], 0.45)
    assert [int((mask == 0).sum()) for mask in masks] == [90, 0]


def test_alternating_ends_sparse_and_visits_dense_phases():
    """AC/DC without dense phases is one-shot pruning; ending dense would not be pruned at all."""
    model = TASK.model(0)
    method = AlternatingPhases(model, Setting(TASK, "unstructured", 0.9, {"phase_epochs": 1}, 100))
    phases = [method.is_sparse(progress / 100) for progress in range(101)]
    assert not any(phases[:20])
    assert all(phases[70:])
    assert 0.3 < sum(phases[20:70]) / 50 < 0.8


def test_multiply_accumulates_agree_with_the_captured_program():
    """A missed layer or a wrong output size would misstate every method's cost."""
    from pdp_export.graph.capture import capture
    from pdp_export.graph.counting import count

    model = TASK.model(0)
    with torch.no_grad():
        model[3].weight[:4] = 0.0
    layers = count(capture(model, TASK.example())).layers
    expected = sum(layer.macs * (0.75 if layer.layer == "3" else 1) for layer in layers) / sum(
        layer.macs for layer in layers
    )
    assert leftovers(model, TASK, "unstructured")["macs_kept"] == pytest.approx(expected)


def test_prunable_layers_are_those_of_the_pruner():
    """Rivals that prune other layers than PDP would not be comparable."""
    from benchmarks.pruning_quality.tasks import TASKS
    from pdp_export.pruning import Pruner, Unstructured

    for task in TASKS.values():
        expected = list(prunable(task.model(0)))
        assert [mask.name for mask in Pruner(task.model(0), Unstructured(0.5), None, task.example()).masks] == expected


@pytest.mark.parametrize(
    ("preset", "options", "expected"),
    [
        ("st3", {"rescale": True}, {"rescale": True}),
        ("st3", {"rescale": False}, {"rescale": False}),
        ("rectified", {"slope": "pdp"}, {"backward": 1.0}),
        ("rectified", {}, {"backward": None}),
    ],
)
def test_options_of_a_preset_change_its_method(preset, options, expected):
    """An option that is dropped on the way compares a method with itself."""
    setting = Setting(TASK, "unstructured", 0.9, options, 100)
    method = Preset(TASK.model(0), setting, preset).pruner.method
    assert {name: getattr(method, name) for name in expected} == expected
