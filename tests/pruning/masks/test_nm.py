"""N:M masks: exactly n of every m, along the input channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pdp_export.pruning import NM, PRESET_NAMES, Pruner, Schedule

ratios = st.tuples(st.integers(1, 7), st.integers(2, 8)).filter(lambda pair: pair[0] < pair[1])


def network(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 6, 3), nn.Flatten(), nn.Linear(6, 2))


@given(ratio=ratios)
def test_each_group_keeps_exactly_its_n_largest(ratio):
    """A mask along the wrong axis, or one global threshold, breaks the pattern that hardware needs."""
    kept, group = ratio
    model = network(2 * group)
    before = model[1].weight.detach().clone()
    pruner = Pruner(model, NM(kept, group))
    pruner.step(1.0)
    pruner.harden()
    groups = model[1].weight.detach().unflatten(1, (2, group))
    raw = before.abs().unflatten(1, (2, group))
    assert bool(((groups != 0).sum(dim=2) == kept).all())
    dead, alive = raw.masked_fill(groups != 0, 0).amax(2), raw.masked_fill(groups == 0, 9).amin(2)
    assert bool((dead <= alive).all())


def test_worked_matrix_of_the_docstring():
    """The matrix in the docstring of NM is a promise."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.9, -0.1, 0.4, 0.2], [-0.6, 0.3, -0.1, -0.7]]))
    pruner = Pruner(model, NM(1, 4))
    pruner.one_shot()
    pruner.harden()
    torch.testing.assert_close(model[1].weight.detach(), torch.tensor([[0.9, 0, 0, 0], [0, 0, 0, -0.7]]))


def test_indivisible_layers_are_reported():
    """A layer whose input width does not divide must be named, not padded or silently left."""
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    pruner = Pruner(model, NM(2, 4))
    assert [mask.name for mask in pruner.masks] == ["2"]
    assert {item.layer: item.reason for item in pruner.skipped}["1"] == "6 input channels are no multiple of 4"


def test_equal_weights_are_pruned_by_position():
    """All-equal groups need one defined answer, or two runs of the same recipe differ."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.fill_(0.5)
    pruner = Pruner(model, NM(2, 4))
    pruner.step(1.0)
    pruner.harden()
    assert (model[1].weight != 0).tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_thresholds_rise_smoothly_and_end_at_the_pattern(name):
    """A ramp in jumps of a quarter of all weights would shock the network; the end must be exact."""
    model = network(8)
    pruner = Pruner(model, NM(1, 4), Schedule(0.0, 0.8, "linear"), preset=name)
    thresholds = []
    for progress in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
        pruner.step(progress)
        thresholds.append(float(pruner.masks[0].threshold.mean()))
    assert thresholds == sorted(thresholds)
    assert len(set(thresholds[:5])) == 5
    assert pruner.harden().masks[0].pruned == 8 * 6 * 9 * 3 // 4


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_equal_weights_of_a_group_stay_until_hardening_picks_among_them(name):
    """A threshold at the equal magnitudes cut all of them: bfloat16 groups lost more than the pattern asks for."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.5, -0.5, 0.5, 0.5], [0.1, 0.5, 0.5, 0.9]]))
    pruner = Pruner(model, NM(2, 4), preset=name)
    pruner.step(1.0)
    assert (model[1].weight != 0).tolist()[0] == [True] * 4
    assert (model[1].weight != 0).tolist()[1][1:] == [True] * 3
    pruner.harden()
    assert (model[1].weight != 0).tolist() == [[False, False, True, True], [False, False, True, True]]


def test_neighbours_that_are_nearly_equal_harden_too():
    """Relative to t alone a group of 1.000 and 0.999 stayed soft to the end: hardening cost a point of accuracy."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0.999, 0.2, 0.1], [1e-6, 0.0, 0.99e-6, 0.0]]))
    pruner = Pruner(model, NM(1, 4), preset="default")
    pruner.step(0.2)
    early = pruner.masks[0].soft()
    assert bool(((early > 0.05) & (early < 0.95)).any())
    pruner.step(1.0)
    soft = model[1].weight.detach().clone()
    pruner.harden()
    torch.testing.assert_close(soft, model[1].weight.detach(), rtol=1e-6, atol=1e-12)


def test_transposed_convolutions_are_left_alone():
    """Their axis 1 holds outputs: groups along it would be of the wrong channels."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    pruner = Pruner(model, NM(2, 4))
    assert [mask.name for mask in pruner.masks] == ["2"]
    assert "transposed" in {item.layer: item.reason for item in pruner.skipped}["1"]
