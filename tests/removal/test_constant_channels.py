"""Dead filters that emit a constant: folded where nothing is padded, else one channel for all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pdp_export.graph.capture import capture
from pdp_export.removal import remove_channels
from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import Analytic
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import prepare
from tests.removal.networks import Check, randomised


class Padded(nn.Module):
    """Two padded readers of one tensor whose filters can die with different constants."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.left = nn.ConvTranspose2d(8, 2, 3) if transposed else nn.Conv2d(8, 2, 3, padding=1)
        self.right = nn.Conv2d(8, 3, 5, padding=2, stride=2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.first(x)).sigmoid()
        return self.left(x), self.right(x)


@pytest.mark.parametrize("transposed", [False, True])
def test_one_constant_channel_stays_for_all(check: Check, transposed: bool) -> None:
    """Dead filters with a BatchNorm shift all had to stay before padding, or were folded wrongly at the border."""
    model = randomised(Padded(transposed))
    model.first.weight.data[[1, 3, 4, 6]] = 0
    removed = check(model, torch.randn(2, 3, 9, 9))
    assert removed.program.state_dict["first.weight"].shape[0] == 5
    layer = removed.report.layers[0]
    assert (layer.dead_filters, layer.kept) == (4, 1)
    assert "in the place of all such channels" in layer.reason


def test_weak_constant_does_not_take_over() -> None:
    """A channel of 1e-9 in the place of one of 1 would cost nine digits."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3, padding=1))
    model[0].weight.data[[0, 1, 2]] = 0
    model[0].bias.data[:3] = torch.tensor([1e-9, 1.0, 0.5])
    removed = remove_channels(model, (torch.randn(2, 3, 9, 9),))
    assert removed.program.state_dict["0.weight"].shape[0] == 4
    assert removed.program.state_dict["0.bias"][0].item() == 1.0


def test_constant_for_a_shared_weight_stays(check: Check) -> None:
    """One weight read at two places cannot be corrected for one of them."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 6, 3) for _ in range(3))
            self.c = nn.Conv2d(6, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x)) + self.c(self.b(x))

    model = Shared()
    for layer in (model.a, model.b):
        layer.weight.data[[1, 2]] = 0
    removed = check(model, torch.randn(2, 3, 9, 9))
    assert removed.report.layers[0].kept == 2
    assert "is used elsewhere too" in removed.report.layers[0].reason


def test_branch_that_nobody_reads_goes_though_the_stream_is_read(check: Check) -> None:
    """Needs are per tensor: what is read before a join need not be computed behind it."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.head(x + self.b(x).relu())

    model = Stream()
    model.head.weight.data[:, [0, 1]] = 0
    model.b.weight.data[:, [0]] = 0
    removed = check(model, torch.randn(2, 3, 9, 9))
    assert removed.program.state_dict["head.weight"].shape[1] == 5


@settings(max_examples=10, deadline=None)
@given(dead=st.sets(st.integers(0, 7), max_size=8), align=st.sampled_from([1, 4]), columns=st.sets(st.integers(0, 7)))
def test_any_dead_filters_before_padding(dead: set[int], align: int, columns: set[int]) -> None:
    """Whatever dies before whatever border: exact, and at most one constant channel more than is alive."""
    model = randomised(Padded())
    model.first.weight.data[list(dead)] = 0
    for reader in (model.left, model.right):
        reader.weight.data[:, list(columns)] = 0
    prepared = prepare(capture(model, (torch.randn(1, 3, 7, 7),)), None, None)
    edited, report = remove_from(prepared, (align,), Analytic(), stage="test")
    assert report.proof_error <= LIMIT
    width = dict(edited.named_parameters())["first.weight"].shape[0]
    alive = len(set(range(8)) - dead - columns)
    needed = alive + bool(dead - columns)
    assert width == min(8, -(-max(needed, 1) // align) * align)


def test_everything_dead() -> None:
    """A network without a living weight is one constant, and still has a channel."""
    model = randomised(Padded())
    model.first.weight.data.zero_()
    removed = remove_channels(model, (torch.randn(1, 3, 7, 7),))
    assert removed.program.state_dict["first.weight"].shape[0] == 1
