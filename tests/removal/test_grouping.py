"""Convolutions of several groups: what remains is again a convolution of equal groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pdp_export.graph.capture import capture
from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import Macs
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import prepare
from tests.removal.networks import Check, kill, randomised


class Grouped(nn.Module):
    """Eight channels in groups between two plain convolutions."""

    def __init__(self, groups: int = 2, outputs: int = 8, padding: int = 1) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.middle = nn.Conv2d(8, outputs, 3, groups=groups, padding=padding)
        self.last = nn.Conv2d(outputs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.norm(self.first(x)).relu()).relu())


def test_one_of_each_group(check: Check) -> None:
    """Different channels in each group, as many: nothing has to come back."""
    model = Grouped()
    kill(model.first, 1, 4, norm=model.norm)
    kill(model.middle, 0, 7)
    removed = check(model, torch.randn(2, 3, 9, 9), batch=True)
    state = removed.program.state_dict
    assert state["first.weight"].shape[0] == 6
    assert state["middle.weight"].shape == (6, 3, 3, 3)
    assert removed.report.layers[1].shape_after == (6, 3, 3, 3)


def test_groups_stay_equal(check: Check) -> None:
    """Three dead channels in one group and none in the other cannot go: groups have one width."""
    model = Grouped()
    kill(model.first, 0, 1, 2, norm=model.norm)
    removed = check(model, torch.randn(2, 3, 9, 9))
    assert removed.program.state_dict["middle.weight"].shape == (8, 4, 3, 3)


def test_whole_group_goes(check: Check) -> None:
    """A group whose filters are dead is no group any more; what only it reads goes as well."""
    model = Grouped(groups=4, outputs=12)
    kill(model.middle, 3, 4, 5)
    removed = check(model, torch.randn(2, 3, 9, 9))
    assert removed.program.state_dict["middle.weight"].shape == (9, 2, 3, 3)
    assert removed.program.state_dict["first.weight"].shape[0] == 6


@pytest.mark.parametrize("padding", [0, 1])
def test_constants_into_groups(check: Check, padding: int) -> None:
    """A constant folds into the biases of its own group only; before padding it stays."""
    model = randomised(Grouped(padding=padding))
    model.norm.bias.data += 2  # alive behind the activation
    model.first.weight.data[[2, 5]] = 0
    removed = check(model, torch.randn(2, 3, 9, 9))
    assert removed.program.state_dict["first.weight"].shape[0] == (6 if padding == 0 else 8)


@settings(max_examples=12, deadline=None)
@given(
    groups=st.sampled_from([2, 4]),
    padding=st.sampled_from([0, 1]),
    filters=st.sets(st.integers(0, 7)),
    rows=st.sets(st.integers(0, 11)),
    columns=st.sets(st.integers(0, 11)),
    align=st.sampled_from([1, 3]),
)
def test_any_masks(groups: int, padding: int, filters: set[int], rows: set[int], columns: set[int], align: int) -> None:
    """Whatever is dead, the function stays and the program runs."""
    model = randomised(Grouped(groups, 12, padding))
    model.first.weight.data[list(filters)] = 0
    model.middle.weight.data[list(rows)] = 0
    model.last.weight.data[:, list(columns)] = 0
    prepared = prepare(capture(model, (torch.randn(1, 3, 7, 7),)), None, None)
    _, report = remove_from(prepared, (align,), Macs(), stage="test")
    assert report.proof_error <= LIMIT
