"""``nn.MultiheadAttention`` and what is built of it: heads that share an axis with the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pdp_export.graph.capture import capture
from pdp_export.removal.batched_heads import separate_heads
from pdp_export.removal.precision import widened
from tests.removal.networks import Check

WIDTH, HEADS, SIZE = 12, 3, 4
X, MEMORY = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
MASK = torch.full((5, 5), -torch.inf).triu(1)


class Attention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, weights: bool = False, mask: Tensor | None = None, batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
        self.weights, self.head = weights, nn.Linear(WIDTH, 3)
        self.register_buffer("mask", mask)
        nn.init.normal_(self.attention.in_proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=self.weights, attn_mask=self.mask)
        return self.head(x + y)


class Shown(Attention):
    """The average of the heads' weights is an output: every head's queries and keys are needed."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.attention(x, x, x)
        return self.head(x + y), weights


class Cross(Attention):
    """Attention of a sequence to another one: the stored projection is cut in every run."""

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head(x + self.attention(x, memory, memory, need_weights=self.weights)[0])


def kill_reader(attention: nn.MultiheadAttention, head: int) -> None:
    attention.out_proj.weight.data[:, head * SIZE : (head + 1) * SIZE] = 0


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("mask", [None, MASK])
def test_head_that_nobody_reads_goes(check: Check, weights: bool, mask: Tensor | None) -> None:
    """Rows of (batch x heads) belong to other heads for each batch, so none of them could go."""
    model = Attention(weights, mask)
    kill_reader(model.attention, 1)
    state = check(model, X, batch=True).program.state_dict
    assert state["attention.in_proj_weight"].shape == (3 * SIZE * (HEADS - 1), WIDTH)
    assert state["attention.out_proj.weight"].shape == (WIDTH, SIZE * (HEADS - 1))


def test_fixed_batch_and_tokens_first(check: Check) -> None:
    """Sizes that are numbers in the program are corrected too."""
    model = Attention(batch_first=False)
    kill_reader(model.attention, 0)
    state = check(model, X).program.state_dict
    assert state["attention.in_proj_weight"].shape[0] == 3 * SIZE * (HEADS - 1)


def test_projections_that_are_cut_in_every_run(check: Check) -> None:
    """A weight that the program computes has no filters that could go; its parts are stored instead."""
    model = Cross()
    kill_reader(model.attention, 2)
    state = check(model, X, MEMORY, batch=True).program.state_dict
    shapes = [tuple(value.shape) for name, value in state.items() if "in_proj_weight" in name]
    assert sorted(shapes) == [(SIZE * (HEADS - 1), WIDTH), (2 * SIZE * (HEADS - 1), WIDTH)]


def test_weights_that_are_read_keep_their_heads(check: Check) -> None:
    """Values of a dead head go, its queries and keys decide an output."""
    model = Shown()
    kill_reader(model.attention, 1)
    state = check(model, X, batch=True).program.state_dict
    assert state["attention.in_proj_weight"].shape[0] >= 2 * SIZE * HEADS


@pytest.mark.parametrize("norm_first", [False, True])
def test_layer_of_a_transformer(check: Check, norm_first: bool) -> None:
    """Heads and neurons of torch's own layer."""
    model = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, batch_first=True, norm_first=norm_first)
    kill_reader(model.self_attn, 1)
    model.linear1.weight.data[:3] = 0
    model.linear1.bias.data[:3] = -1
    state = check(model, X, batch=True).program.state_dict
    assert state["self_attn.in_proj_weight"].shape[0] == 3 * SIZE * (HEADS - 1)
    assert state["linear1.weight"].shape[0] == 5


def test_use_that_cannot_be_followed_leaves_all_as_it_is() -> None:
    """Half a rewrite would be wrong: the heads are mixed by an operator without a rule."""

    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = x.transpose(0, 1).reshape(5, 2 * HEADS, SIZE).transpose(0, 1)
            scores = torch.bmm(heads, heads.transpose(1, 2))
            return scores.cumsum(0) + scores.softmax(0)

    module = widened(capture(Mixed(), (X,)))
    before = [node.name for node in module.graph.nodes]
    separate_heads(module)
    assert [node.name for node in module.graph.nodes] == before
