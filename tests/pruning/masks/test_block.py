"""Block masks: h x w channel blocks live and die together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pdp_export.pruning import PRESET_NAMES, Block, Pruner, Schedule


@given(height=st.sampled_from([1, 2, 4]), width=st.sampled_from([2, 4, 8]), sparsity=st.floats(0.2, 0.9))
def test_zeros_come_in_whole_blocks_and_in_the_asked_number(height, width, sparsity):
    """A half-empty block saves nothing in a block-sparse kernel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    pruner = Pruner(model, Block(sparsity, height, width))
    pruner.one_shot()
    pruner.harden()
    blocks = (model[1].weight != 0).unflatten(1, (-1, width)).unflatten(0, (-1, height)).sum((1, 3))
    assert set(blocks.flatten().tolist()) <= {0, height * width}
    assert int((blocks == 0).sum()) == round(sparsity * blocks.numel())


def test_worked_matrix_of_the_docstring():
    """The matrix in the docstring of Block is a promise."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.9, -0.1, 0.4, 0.2], [-0.6, 0.3, -0.1, -0.7]]))
    pruner = Pruner(model, Block(0.5, 1, 2))
    pruner.one_shot()
    pruner.harden()
    torch.testing.assert_close(model[1].weight.detach(), torch.tensor([[0.9, -0.1, 0, 0], [0, 0, -0.1, -0.7]]))


def test_layers_that_cannot_be_cut_are_reported():
    """A ragged block at the edge would not be one for any kernel."""
    sizes = ((8, 6), (6, 8), (8, 8), (8, 4), (4, 4), (4, 2))
    pruner = Pruner(nn.Sequential(*(nn.Linear(*size) for size in sizes)), Block(0.5, 4, 4))
    reasons = {item.layer: item.reason for item in pruner.skipped}
    assert reasons["1"] == "8 x 6 channels cannot be cut into blocks of 4 x 4"
    assert reasons["4"] == "is a single block of 4 x 4"


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_every_method_trains_blocks_to_exact_zeros(name):
    """Groups go another way through each method than single weights do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    pruner = Pruner(model, Block(0.5, 4, 2), Schedule(0.1, 0.8), preset=name, temperature=1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(1, 21):
        optimizer.zero_grad()
        model(torch.randn(8, 8)).square().mean().backward()
        optimizer.step()
        pruner.step(step / 20)
    report = pruner.harden()
    assert report.zeros == 128
    assert bool(model[2].weight.isfinite().all())


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_equal_blocks_stay_until_hardening_picks_among_them(name):
    """Scores that count from the smallest one gave gates of 1e36, or none at all, where all of them are equal."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 8, bias=False), nn.Linear(8, 2))
    with torch.no_grad():
        model[1].weight.fill_(0.5)
    pruner = Pruner(model, Block(0.5, 1, 4), preset=name)
    pruner.step(1.0)
    torch.testing.assert_close(model[1].weight, torch.full((8, 4), 0.5))
    pruner.harden()
    torch.testing.assert_close(model[1].weight.detach(), torch.tensor([[0.0] * 4] * 4 + [[0.5] * 4] * 4))
