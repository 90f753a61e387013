"""Heads, neurons of a feed-forward layer, and channels that are shuffled: what falls out of the same rules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.removal.networks import Check

HEADS, SIZE, WIDTH = 3, 4, 12


class Fused(nn.Module):
    """A pre-norm block with one projection for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.norm(x))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(x)))


class Chunked(Fused):
    """The projection is cut before it is split into heads."""

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, t, _ = x.shape
        q, k, v = (part.view(n, t, HEADS, SIZE).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return q * 0.5, k, v


class SpelledOut(Chunked):
    """Attention as two products of matrices."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.norm(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) / SIZE**0.5, -1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(x.shape))


def kill_values(model: Fused, head: int, bias: bool = True) -> None:
    """Zero the values of one head: its queries and keys are then computed for nothing."""
    rows = range(2 * WIDTH + head * SIZE, 2 * WIDTH + (head + 1) * SIZE)
    model.qkv.weight.data[list(rows)] = 0
    if bias:
        model.qkv.bias.data[list(rows)] = 0


@pytest.mark.parametrize("network", [Fused, Chunked, SpelledOut])
def test_dead_head_goes_with_its_queries_and_keys(check: Check, network: type[Fused]) -> None:
    """Only its values are zero; queries and keys of the head are alive, and nobody needs them."""
    model = network()
    kill_values(model, 1)
    removed = check(model, torch.randn(2, 5, WIDTH))
    state = removed.program.state_dict
    assert state["qkv.weight"].shape == (3 * SIZE * (HEADS - 1), WIDTH)
    assert state["out.weight"].shape == (WIDTH, SIZE * (HEADS - 1))


@pytest.mark.parametrize("network", [Fused, Chunked])
def test_head_that_nobody_reads_goes(check: Check, network: type[Fused]) -> None:
    """A head dies from behind as well: its columns of the output projection are zero."""
    model = network()
    model.out.weight.data[:, :SIZE] = 0
    removed = check(model, torch.randn(2, 5, WIDTH), batch=True)
    assert removed.program.state_dict["qkv.weight"].shape[0] == 3 * SIZE * (HEADS - 1)


def test_values_with_a_bias_fold(check: Check) -> None:
    """The weights of attention sum to one, so the bias of dead values is a constant of the projection behind."""
    model = Fused()
    kill_values(model, 2, bias=False)
    model.qkv.bias.data += 0.5
    removed = check(model, torch.randn(2, 5, WIDTH))
    assert removed.program.state_dict["out.weight"].shape[1] == SIZE * (HEADS - 1)


def test_half_a_head_stays(check: Check) -> None:
    """Heads have one size; entries that die in one head only cannot go."""
    model = Fused()
    model.out.weight.data[:, :2] = 0
    removed = check(model, torch.randn(2, 5, WIDTH))
    assert removed.program.state_dict["qkv.weight"].shape[0] == 3 * WIDTH


def test_neurons_of_the_feed_forward_layer(check: Check) -> None:
    """The hidden layer of a transformer block is a chain like any other; the normalised stream stays."""
    model = Fused()
    model.up.weight.data[[0, 5]] = 0
    model.up.bias.data[[0]] = 0
    model.down.weight.data[:, 7] = 0
    removed = check(model, torch.randn(2, 5, WIDTH))
    assert removed.program.state_dict["up.weight"].shape == (13, WIDTH)
    assert removed.program.state_dict["norm.weight"].shape == (WIDTH,)


class GroupedQueries(nn.Module):
    """Four heads of queries share two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


def test_shared_keys_go_with_all_their_queries(check: Check) -> None:
    """A key that one living head still reads must stay; without any it goes with its group."""
    model = GroupedQueries()
    model.out.weight.data[:, :4] = 0
    assert check(model, torch.randn(2, 5, 8)).program.state_dict["k.weight"].shape[0] == 8
    model.out.weight.data[:, :8] = 0
    removed = check(model, torch.randn(2, 5, 8))
    assert removed.program.state_dict["k.weight"].shape[0] == 4
    assert removed.program.state_dict["q.weight"].shape[0] == 8


class Shuffled(nn.Module):
    """A channel shuffle by view, transpose, view."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)
        self.inner = inner or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        n, c, h, w = x.shape
        return self.last(self.inner(x.view(n, 2, c // 2, h, w).transpose(1, 2)).reshape(n, c, h, w))


@pytest.mark.parametrize("dead", [[0], [1, 2, 6], [0, 1, 2, 3, 4, 5, 6], []])
def test_shuffle_of_any_channels(check: Check, dead: list[int]) -> None:
    """What remains of two groups is seldom two equal groups: the shuffle becomes a gather."""
    model = Shuffled()
    model.first.weight.data[dead] = 0
    model.first.bias.data[dead] = 0
    removed = check(model, torch.randn(2, 3, 9, 9), batch=True)
    assert removed.program.state_dict["first.weight"].shape[0] == 8 - len(dead)


def test_work_between_the_views_of_a_shuffle(check: Check) -> None:
    """A gather in the place of the views must not lose the activation between them; groups then go as a whole."""
    model = Shuffled(nn.Sigmoid())
    model.last.weight.data[:, [0, 1, 2]] = 0
    removed = check(model, torch.randn(2, 3, 9, 9))
    assert removed.program.state_dict["first.weight"].shape[0] == 6
