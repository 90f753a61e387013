"""Selects in front of a concatenation: only what is read is joined."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import Macs
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import prepare
from tests.removal.networks import randomised

aten = torch.ops.aten
X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Skips(nn.Module):
    """Two tensors that are read on their own and joined for one more layer."""

    def __init__(self, activation: nn.Module, shared: bool = False) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.readers = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)])
        self.joined = nn.Conv2d(16, 4, 3, padding=1)
        self.activation, self.shared = activation, shared

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        left, right = self.left(x), self.right(x)
        both = self.activation(torch.cat([left, right], dim=-3))
        outputs = self.readers[0](left), self.readers[1](right), self.joined(both)
        return (*outputs, both.amax((2, 3))) if self.shared else outputs


def counts(model: Skips, dead: list[int], *, everywhere: bool = False) -> tuple[int, int]:
    """Return the number of gathers and of concatenations, of what is proven to be the same function."""
    randomised(model).eval()
    model.joined.weight.data[:, dead] = 0
    cost = Macs(before_concatenations=everywhere)
    module, report = remove_from(prepare(model, (X,), None), (1,), cost, stage="test")
    assert report.proof_error <= LIMIT
    targets = [node.target for node in module.graph.nodes]
    return targets.count(aten.index_select.default), targets.count(aten.cat.default)


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU()])
def test_part_that_is_not_read_is_not_joined(activation: nn.Module) -> None:
    """A skip connection that pruning cut was still joined, and thrown away by a gather behind."""
    assert counts(Skips(activation), list(range(8))) == (0, 0)
    assert counts(Skips(activation), [*range(8), 9, 12]) == (1, 0)
    assert counts(Skips(activation), [1, 2]) == (1, 1)


def test_two_cut_parts_are_a_question_of_cost() -> None:
    """Two gathers in the place of one are not always better: only a plan that says so makes them."""
    dead = [1, 2, 9]
    assert counts(Skips(nn.ReLU()), dead) == (1, 1)
    assert counts(Skips(nn.ReLU()), dead, everywhere=True) == (2, 1)


def test_concatenation_that_something_else_reads_stays() -> None:
    """The other reader wants what the select leaves out."""
    assert counts(Skips(nn.Identity(), shared=True), list(range(8))) == (1, 1)


def test_nested_concatenations_are_passed_through() -> None:
    """Dense blocks join what is joined already; a select goes up to the tensor that it cuts."""

    class Nested(Skips):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            left, right = self.left(x), self.right(x)
            inner = torch.cat([left, left.tanh()], 1)
            outputs = self.readers[0](left), self.readers[1](right)
            return *outputs, self.joined(torch.cat([right, inner], 1))

    model = Nested(nn.Identity())
    model.joined = nn.Conv2d(24, 4, 1)
    assert counts(model, [*range(16, 24), 1]) == (1, 1)
