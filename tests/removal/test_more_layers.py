"""Embeddings, GroupNorm, depthwise transposed convolutions, pixel shuffles: layers with rules of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdp_export.removal import remove_channels
from tests.removal.networks import Check, kill
from tests.removal.test_hard_cases import Net, attend, removed

TOKENS = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(0))


def test_columns_of_an_embedding() -> None:
    """They make the hidden channels; one that is zero for the whole vocabulary, or that nobody reads, goes."""
    net = Net(
        lambda self, x: self.b(self.a(self.e(x)).relu()), e=nn.Embedding(20, 8), a=nn.Linear(8, 8), b=nn.Linear(8, 2)
    )
    net.e.weight.data[:, [1, 3]] = 0
    net.a.weight.data[:, 5] = 0
    result = remove_channels(net, (TOKENS,))
    assert result.program.state_dict["e.weight"].shape == (20, 5)
    assert torch.allclose(result.module(TOKENS), net(TOKENS), atol=1e-6)
    (layer,) = [layer for layer in result.report.layers if layer.layer == "e"]
    assert (layer.dead_filters, layer.removed_filters) == (2, 3)


def test_table_that_is_read_again_at_the_end() -> None:
    """Tied embeddings: the columns that make the channels are those that the last layer reads."""
    net = Net(
        lambda self, x: F.linear(self.a(self.e(x)).relu() + self.e(x), self.e.weight),
        e=nn.Embedding(20, 8),
        a=nn.Linear(8, 8),
    )
    net.e.weight.data[:, [1, 3]] = 0
    kill(net.a, 1, 3)
    result = remove_channels(net, (TOKENS,))
    assert result.program.state_dict["e.weight"].shape == (20, 6)
    assert torch.allclose(result.module(TOKENS), net(TOKENS), atol=1e-5)


def test_groups_of_a_norm() -> None:
    """A group that is dead or unread goes, and the norm counts one less; half a dead group changes the other half."""
    net = Net(
        lambda self, x: self.b(self.n(self.a(x)).relu()),
        a=nn.Conv2d(3, 8, 1),
        n=nn.GroupNorm(4, 8),
        b=nn.Conv2d(8, 2, 3, padding=1),
    )
    kill(net.a, 0, 1, 2)
    net.b.weight.data[:, 4:6] = 0
    result = removed(net, 2, 3, 6, 6, dynamic={0: {0: "batch", 2: "height", 3: "width"}})
    assert result.program.state_dict["n.weight"].shape[0] == 4
    nn.init.ones_(net.n.bias)  # now the dead group emits constants, and one of them stays before the padding
    assert removed(net, 2, 3, 6, 6).program.state_dict["n.weight"].shape[0] == 6


@pytest.mark.parametrize("times", [1, 2])
def test_depthwise_transposed_convolution(check: Check, times: int) -> None:
    """Upsampling channel by channel: groups and rows follow the producer."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 6 * times, 2, stride=2, groups=6, bias=False), nn.ReLU(),
        nn.Conv2d(6 * times, 2, 1),
    )  # fmt: skip
    kill(model[0], 1)
    model[4].weight.data[:, 4 * times : 5 * times] = 0
    result = check(model, torch.randn(2, 3, 5, 5), batch=True)
    assert result.program.state_dict["2.weight"].shape == (4, times, 2, 2)


def test_groups_of_a_transposed_convolution_stay(check: Check) -> None:
    """No rule cuts several channels of a group there: the report says so."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, groups=2), nn.Conv2d(8, 2, 1))
    kill(model[0], 1, 5)
    assert "groups of several channels" in check(model, torch.randn(2, 3, 5, 5)).report.nothing_removed


def test_pixel_shuffle() -> None:
    """Four channels are one of twice the size: they go together."""
    net = Net(
        lambda self, x: self.b(F.pixel_shuffle(self.a(x), 2)), a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(3, 2, 3, padding=1)
    )
    kill(net.a, 0, 1, 4, 5, 6, 7)
    result = removed(net, 2, 3, 4, 4, dynamic={0: {2: "height"}})
    assert result.program.state_dict["a.weight"].shape[0] == 8
    net.b.weight.data[:, 0] = 0
    assert removed(net, 2, 3, 4, 4).program.state_dict["a.weight"].shape[0] == 4


def test_pixel_unshuffle() -> None:
    """One channel is four of half the size; it goes when none of them is read."""
    net = Net(lambda self, x: self.b(F.pixel_unshuffle(self.a(x), 2)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(16, 2, 1))
    kill(net.a, 2)
    net.b.weight.data[:, 1:8] = 0
    assert removed(net, 2, 3, 4, 4).program.state_dict["b.weight"].shape[1] == 8


def test_dimensions_of_all_heads() -> None:
    """As many dead values, and as many dead queries, in every head: each head gets smaller."""

    def forward(self: Net, x: Tensor) -> Tensor:
        layers = (self.q, self.k, self.v)
        return self.o(attend(*(layer(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for layer in layers)))

    net = Net(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), o=nn.Linear(8, 8))
    kill(net.v, 0, 5)
    kill(net.q, 1, 6)
    state = remove_channels(net, (torch.randn(2, 5, 8),), objective="macs").program.state_dict
    assert [state[f"{name}.weight"].shape[0] for name in "qkv"] == [6, 6, 6]


def test_depthwise_layer_behind_what_could_not_be_followed(check: Check) -> None:
    """Its channels come out of an operator without a rule: the planner stopped with a bare TypeError."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.depthwise = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
            self.head = nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.depthwise(self.stem(x).cumsum(1)).relu())

    model = Tokens()
    kill(model.depthwise, 1, 4)
    model.head.weight.data[:, 2] = 0
    check(model, torch.randn(2, 3, 6, 6))
