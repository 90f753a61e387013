"""Free ties: the branches of a residual join may disagree, and each dead channel enters its join as exactly zero."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from pdp_export.errors import UsageError
from pdp_export.graph.capture import capture
from pdp_export.graph.channel_groups import ChannelGroup, channel_groups
from pdp_export.graph.nodes import argument, aten, operator
from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import Macs
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import prepare
from sample_models.mobilenet_v2 import mobilenet_v2
from sample_models.resnet import resnet_cifar
from tests.removal.networks import randomised


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


class PreActivation(nn.Module):
    """BatchNorm before convolution: nothing lies between the last convolution of a block and its join."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = conv(3, 6), nn.BatchNorm2d(6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5), nn.BatchNorm2d(5), nn.ReLU(), conv(5, 6))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.last(x).relu().mean((2, 3)))


class Shared(nn.Module):
    """One convolution and one BatchNorm serve two branches; one reader serves a branch and the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.norm, self.reader = conv(3, 6), conv(6, 6), nn.BatchNorm2d(6), conv(6, 6)
        self.a, self.b, self.both, self.deep = conv(6, 6), conv(6, 6), nn.BatchNorm2d(6), conv(6, 6, groups=6)
        self.head = conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x + self.norm(self.twice(x))
        y = y + self.norm(self.twice(y))
        z = self.both(self.a(y)) - self.both(self.b(y))
        return self.head(self.reader(self.deep(y + z)) + self.reader(y).tanh() + self.reader(x))


class Gated(nn.Module):
    """Squeeze-and-excitation inside a branch, a grouped convolution and a fixed tensor as the other side of a join."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.squeeze, self.excite = conv(3, 8), conv(8, 8), nn.Linear(8, 4), nn.Linear(4, 8)
        self.grouped, self.side, self.head = conv(8, 8, groups=2), conv(3, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        z = self.body(y)
        gate = torch.sigmoid(self.excite(self.squeeze(z.mean((2, 3))).relu()))
        y = y + z * gate[:, :, None, None]
        y = torch.maximum(y, self.side(x))
        return self.head(self.side(x).relu() + self.grouped(y))


def inverted_residuals() -> nn.Module:
    return nn.Sequential(*mobilenet_v2(10, 0.1).features[:10], conv(8, 4), nn.Flatten(1), nn.LazyLinear(3))


NETS: dict[str, tuple[Any, int]] = {
    "resnet": (lambda: resnet_cifar(10, 14, 8), 16),
    "mobilenet_v2": (inverted_residuals, 16),
    "pre_activation": (PreActivation, 8),
    "shared": (Shared, 8),
    "gated": (Gated, 8),
}


@cache
def captured(name: str) -> ExportedProgram:
    build, size = NETS[name]
    torch.manual_seed(0)
    model, x = build(), torch.randn(2, 3, size, size)
    model(x)  # gives lazy layers their shape
    return capture(randomised(model), (x,))


@cache
def free_groups(name: str) -> dict[str, ChannelGroup]:
    return {group.name: group for group in channel_groups(captured(name), ties="free")}


def branch_ends(node: Node) -> list[Node]:
    """Walk from a layer to the tensors that a join or another layer reads: the trace itself is not asked."""
    ends: list[Node] = []
    for user in node.users:
        kind = operator(user)
        reads = kind is aten.linear or (kind is aten.conv2d and argument(user, "groups") == 1)
        joins = kind in {aten.add, aten.sub, aten.maximum} and len(user.all_input_nodes) > 1
        ends += [node] if reads or joins else branch_ends(user)
    return ends


def values_of(program: ExportedProgram, x: Tensor) -> dict[Node, Tensor]:
    """Run the program and return the value of every node."""
    values: dict[Node, Tensor] = {}

    class Recorder(Interpreter):
        def run_node(self, n: Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad():
        Recorder(program.module(check_guards=False)).run(x)
    return values


def dead_ends(values: dict[Node, Tensor], group: ChannelGroup, dead: list[int]) -> list[Tensor]:
    """Return what the branches of a group carry in these channels."""
    makers = [
        node
        for node in values
        if operator(node) in {aten.conv2d, aten.linear} and str(argument(node, "weight").target) in group.filters
    ]
    return [values[end].movedim(1, 0)[dead] for maker in makers for end in branch_ends(maker)]


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_dead_channels_enter_their_joins_as_zeros(name: str, data: st.DataObject) -> None:
    """A forgotten follower leaves a constant on the branch; removal must stay exact where branches disagree."""
    program = captured(name)
    original = {key: value.clone() for key, value in program.state_dict.items()}
    free = [group for group in free_groups(name).values() if group.frozen is None]
    dead = {group.name: data.draw(st.lists(st.integers(0, group.channels - 1), unique=True)) for group in free}
    try:
        for group in free:
            for member in (*group.filters, *group.followers):
                program.state_dict[member].data[dead[group.name]] = 0.0
        values = values_of(program, 3 * torch.randn(program.example_inputs[0][0].shape))
        for group in free:
            ends = dead_ends(values, group, dead[group.name])
            assert ends
            assert all(end.count_nonzero() == 0 for end in ends)
        _, report = remove_from(prepare(program, None, None), (1,), Macs(), stage="test")
        assert report.proof_error <= LIMIT
    finally:
        for key, value in original.items():
            program.state_dict[key].data.copy_(value)


def test_each_filter_of_a_stream_is_a_group_of_its_own() -> None:
    """Followers end at the join; a dead channel there leaves the others of the stream alone."""
    groups = free_groups("resnet")
    last = groups["features.4.body.3.weight"]
    assert last.filters == ("features.4.body.3.weight",)
    assert last.followers == ("features.4.body.4.weight", "features.4.body.4.bias")
    assert last.consumers == ()
    assert last.frozen is None
    assert groups["features.0.weight"].consumers == ("features.3.body.0.weight",)
    assert sum(group.frozen is None for group in groups.values()) == len(groups) - 1  # the classifier


def test_depthwise_convolutions_follow_as_far_as_the_join() -> None:
    """An expansion takes its depthwise filter along; the projection before the join takes nothing but its BatchNorm."""
    groups = free_groups("mobilenet_v2")
    expand = groups["5.body.0.weight"]
    assert "5.body.3.weight" in expand.followers
    assert expand.consumers == ("5.body.6.weight",)
    assert groups["5.body.6.weight"].followers == ("5.body.7.weight", "5.body.7.bias")


def test_pre_activation_blocks_have_no_followers_behind_the_stream() -> None:
    """The BatchNorm of the next block sees a mixture: zeroing it for one branch would kill the others."""
    groups = free_groups("pre_activation")
    assert groups["blocks.0.5.weight"].followers == ("blocks.0.5.bias",)
    assert "blocks.0.0.weight" in groups["stem.weight"].followers  # before any join
    masked = {name for group in groups.values() for name in group.followers}
    assert masked.isdisjoint({"blocks.1.0.weight", "blocks.1.0.bias", "last.weight", "last.bias"})


def test_shared_parameters_still_tie() -> None:
    """A BatchNorm behind two branches has one row per channel for both, so they can only die together."""
    groups = free_groups("shared")
    assert groups["a.weight"].filters == ("a.weight", "b.weight")
    assert groups["twice.weight"].filters == ("twice.weight",)
    assert "norm.weight" in groups["twice.weight"].followers
    assert all(group.frozen is None for name, group in groups.items() if name != "head.weight")
    assert all("deep.weight" not in group.followers for group in groups.values())


def test_gates_go_with_what_they_gate() -> None:
    """A product is no residual join; and a side that cannot be followed does not stop the other one."""
    groups = free_groups("gated")
    assert groups["body.weight"].filters == ("body.weight", "excite.weight")
    assert groups["side.weight"].frozen is None
    assert "has 2 groups" not in str(groups["stem.weight"].frozen)


class Crossed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.gate = (nn.Linear(4, 6) for _ in range(5))
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm(self.a(x)) + self.b(x).sigmoid()
        second = (self.c(x) + self.d(x)) * self.gate(x)
        return self.head(self.norm(first) + second)


def test_branches_that_cannot_be_zero_are_frozen_with_the_reason() -> None:
    """A mask on a parameter that also acts on the stream would prune what other branches say."""
    program = capture(Crossed(), (torch.randn(2, 4),))
    groups = {group.name: group for group in channel_groups(program, ties="free")}
    assert "tied to the stream behind aten.add" in str(groups["a.weight"].frozen)
    assert "not zero where" in str(groups["b.weight"].frozen)
    assert "tied to the stream behind aten.add" in str(groups["gate.weight"].frozen)
    assert groups["c.weight"].frozen is None


def test_unknown_ties() -> None:
    """A misspelt word must not fall back to one of the two."""
    with pytest.raises(UsageError, match="unknown ties 'loose'"):
        channel_groups(captured("pre_activation"), ties="loose")  # type: ignore[arg-type]
