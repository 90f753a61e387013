"""Budgets of work: kept work never exceeds them and falls short by less than one element."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram

from pdp_export.errors import UsageError
from pdp_export.graph.capture import capture
from pdp_export.graph.channel_groups import channel_groups
from pdp_export.graph.counting import count
from pdp_export.pruning.allocation import Budget, weight_caps
from pdp_export.pruning.patterns import Block, Channel, Unstructured
from pdp_export.removal import remove_channels
from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.resnet import resnet_cifar

SHARES = st.floats(0.1, 0.9)


@dataclass(frozen=True)
class Net:
    model: nn.Module
    program: ExportedProgram
    names: list[tuple[str]]
    weights: list[Tensor]

    def budget(self, budget, most: float = 0.98, pattern=Unstructured(0.5), **options) -> Budget:  # noqa: B008
        sizes = [weight.numel() for weight in self.weights]
        return Budget(pattern, sizes, most, budget=budget, program=self.program, names=self.names, **options)

    def scores(self) -> list[Tensor]:
        return [weight.detach().abs().flatten() for weight in self.weights]


@cache
def net() -> Net:
    """All convolutions but the first; the first, the classifier and the BatchNorms are never pruned."""
    torch.manual_seed(0)
    model = resnet_cifar(10, 8, 8)
    program = capture(model, (torch.randn(2, 3, 16, 16),))
    names = [name for name, weight in model.named_parameters() if weight.dim() == 4][1:]
    return Net(model, program, [(name,) for name in names], [model.get_parameter(name) for name in names])


def units(kind: str) -> tuple[list[int], int]:
    """Return what one weight of each mask costs, and the cost of the whole model, counted by hand."""
    counts = count(net().program)
    macs = {layer.weight: layer.macs // prod(layer.shape) for layer in counts.layers}
    if kind == "macs":
        return [macs[name] for (name,) in net().names], counts.macs
    return [1] * len(net().names), sum(value.numel() for value in net().model.parameters())


@pytest.mark.parametrize("kind", ["macs", "parameters"])
@settings(max_examples=15, deadline=None)
@given(share=SHARES, most=st.floats(0.9, 1.0))
def test_weights_kept_fit_the_budget_and_fill_it(kind, share, most):
    """Layers that are never pruned count too, and one weight more would not fit."""
    unit, total = units(kind)
    caps = weight_caps([weight.numel() for weight in net().weights], most)
    least = total - sum(cost * cap for cost, cap in zip(unit, caps, strict=True))
    if share * total < least:
        with pytest.raises(UsageError, match="cannot be reached"):
            net().budget({kind: share}, most)
        return
    budget = net().budget({kind: share}, most)
    counts = budget.counts(net().scores())
    kept = total - sum(cost * number for cost, number in zip(unit, counts, strict=True))
    assert share * total - max(unit) < kept <= share * total
    assert budget.kept_share(counts) == pytest.approx(kept / total)
    assert all(number <= cap for number, cap in zip(counts, caps, strict=True))


def test_weights_are_ranked_by_harm_per_work():
    """The first-order knapsack: w^2 per multiply-accumulate; a plain ranking would spare the dear layers."""
    unit, total = units("macs")
    counts = net().budget({"macs": 0.4}, 1.0).counts(net().scores())
    ranks = [(float(w) ** 2 / c, i) for i, (c, w_l) in enumerate(zip(unit, net().scores(), strict=True)) for w in w_l]
    saved, expected = 0, [0] * len(unit)
    for _, index in sorted(ranks):
        if total - saved <= 0.4 * total:
            break
        saved, expected[index] = saved + unit[index], expected[index] + 1
    assert counts == pytest.approx(expected, abs=1)  # float32 against float64 at the very threshold


@settings(max_examples=10, deadline=None)
@given(first=SHARES, second=SHARES)
def test_a_smaller_budget_gives_no_weight_back(first, second):
    """Layers must not trade places when the budget moves."""
    less, more = sorted((first, second))
    if less < 0.3:
        return
    fewer, further = (net().budget({"macs": share}, 1.0).counts(net().scores()) for share in (more, less))
    assert all(a <= b for a, b in zip(fewer, further, strict=True))


def test_measured_costs_by_layer_use_the_same_code():
    """Costs that follow the multiply-accumulates must give the counts of the budget of multiply-accumulates."""
    unit, total = units("macs")
    costs = {name.removesuffix(".weight"): 1e-6 * cost for (name,), cost in zip(net().names, unit, strict=True)}
    prunable = sum(cost * weight.numel() for cost, weight in zip(unit, net().weights, strict=True))
    by_macs = net().budget({"macs": (total - 0.6 * prunable) / total}).counts(net().scores())
    by_cost = net().budget({"cost": 0.4}, costs=costs).counts(net().scores())
    assert by_cost == pytest.approx(by_macs, abs=1)
    first = next(iter(costs))
    only = net().budget({"cost": 0.5}, costs={first: 2.0}).counts(net().scores())
    assert only == [net().weights[0].numel() // 2] + [0] * (len(costs) - 1)


def test_blocks_cost_what_their_weights_cost():
    """A block of four weights must save four times as much."""
    unit, total = units("macs")
    sizes = [weight.numel() // 4 for weight in net().weights]
    scores = [score.view(-1, 4).square().mean(1).sqrt() for score in net().scores()]
    budget = Budget(Block(0.5, 1, 4), sizes, 0.98, budget={"macs": 0.5}, program=net().program, names=net().names)
    kept = total - sum(4 * cost * number for cost, number in zip(unit, budget.counts(scores), strict=True))
    assert 0.5 * total - 4 * max(unit) < kept <= 0.5 * total


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 8)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


def test_a_tied_weight_saves_work_in_all_its_places():
    """One weight in two layers costs two multiply-accumulates, whichever of its names the program kept."""
    model = Tied()
    program = capture(model, (torch.randn(2, 4),))
    for names in (("a.weight", "b.weight"), ("b.weight", "a.weight")):
        budget = Budget(Unstructured(0.5), [16], 0.98, budget={"macs": 0.75}, program=program, names=[names])
        assert budget.counts([model.a.weight.abs().flatten()]) == [8]  # 64 in all, 2 each
        budget = Budget(
            Unstructured(0.5), [16], 0.98, budget={"cost": 0.5}, costs={"a": 1.0}, program=program, names=[names]
        )
        assert budget.counts([model.a.weight.abs().flatten()]) == [8]


@cache
def channel_net(name: str, ties: str) -> tuple[nn.Module, ExportedProgram, list]:
    torch.manual_seed(0)
    model = resnet_cifar(10, 14, 16) if name == "resnet" else mobilenet_v1(10, 0.5, 6)
    program = capture(model, (torch.randn(2, 3, 16, 16),))
    groups = [group for group in channel_groups(program, ties) if group.frozen is None and group.channels > 8]
    return model, program, groups


def channel_budget(name: str, ties: str, budget, align: int = 4) -> tuple[Budget, list[int]]:
    model, program, groups = channel_net(name, ties)
    names = [(*group.filters, *group.followers) for group in groups]
    sizes = [group.channels for group in groups]
    made = Budget(Channel(0.5, ties=ties, align=align), sizes, 0.98, budget=budget, program=program, names=names)
    scores = [model.get_parameter(group.name).detach().flatten(1).norm(dim=1) for group in groups]
    return made, made.counts(scores)


def removed_macs(name: str, ties: str, counts: list[int]) -> tuple[int, int]:
    """Zero that many channels, take them out, and count what is left."""
    model, program, groups = channel_net(name, ties)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for group, number in zip(groups, counts, strict=True):
            for member in (*group.filters, *group.followers):
                model.get_parameter(member)[:number] = 0
    removed = remove_channels(model, (torch.randn(2, 3, 16, 16),))
    model.load_state_dict(before)
    return count(removed.program).macs, count(program).macs


@pytest.mark.parametrize(("name", "ties"), [("resnet", "stream"), ("mobilenet", "stream"), ("resnet", "free")])
def test_channels_kept_fit_the_budget_after_removal(name, ties):
    """A channel saves rows here and columns there, and both depend on the other groups."""
    budget, counts = channel_budget(name, ties, {"macs": 0.4})
    after, total = removed_macs(name, ties, counts)
    share = budget.kept_share(counts)
    assert share <= 0.4
    assert after / total <= share + 1e-12
    if ties == "stream":
        assert after / total == pytest.approx(share, abs=1e-12)
    assert all(number % 4 == 0 for number in counts)
    _, fewer = channel_budget(name, ties, {"macs": 0.6})
    assert all(a <= b for a, b in zip(fewer, counts, strict=True))


@pytest.mark.parametrize("align", [1, 8])
def test_channel_budget_stops_within_one_block(align):
    """Undershooting by more than the last block would waste accuracy."""
    budget, counts = channel_budget("resnet", "stream", {"parameters": 0.3}, align)
    kept = budget.kept_share(counts)
    back = [budget.kept_share([n - align * (i == j) for j, n in enumerate(counts)]) for i, n in enumerate(counts) if n]
    assert kept <= 0.3 < max(back)
    assert all(n <= 0.98 * group.channels for n, group in zip(counts, channel_net("resnet", "stream")[2], strict=True))


def test_equal_channels_are_taken_the_same_way_every_time():
    """Ties are common before training; two ranks of one run must agree."""
    _, program, groups = channel_net("resnet", "stream")
    names, sizes = [(group.name,) for group in groups], [group.channels for group in groups]
    made = Budget(Channel(0.5, align=8), sizes, 0.98, budget={"macs": 0.5}, program=program, names=names)
    equal = [torch.ones(size) for size in sizes]
    assert made.counts(equal) == made.counts([score.clone() for score in equal])
    assert made.counts([torch.zeros(size) for size in sizes]) == made.counts([torch.zeros(size) for size in sizes])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": {"macs": 0.001}}, "macs of 0.001 cannot be reached"),
        ({"budget": {"macs": 1e12}}, "need no pruning"),
        ({"budget": {"macs": 1}}, "positive and not 1"),
        ({"budget": {"macs": float("nan")}}, "positive and not 1"),
        ({"budget": {"flops": 0.5}}, "unknown budget 'flops'"),
        ({"budget": {"macs": 0.5, "parameters": 0.5}}, "limits 2 things"),
        ({"budget": {"cost": 0.5}}, "go together"),
        ({"budget": None, "costs": {"features.3.body.0": 1.0}}, "go together"),
        ({"budget": {"macs": 0.5}, "costs": {"features.3.body.0": 1.0}}, "go together"),
        ({"budget": {"cost": 0.5}, "costs": {"features.3.body.O": 1.0}}, "(did you mean 'features.3.body"),
        ({"budget": {"cost": 0.5}, "costs": {"features.3.body.0": -1.0}}, "must cost 0 or more"),
        ({"budget": {"macs": 0.5}, "method": "erk"}, "has no say"),
        ({"budget": {"macs": 0.5}, "program": None}, "needs example_inputs"),
    ],
)
def test_impossible_budgets_are_refused_before_training(options, message):
    """Each message carries the value and what would work instead."""
    arguments = {"program": net().program, "names": net().names, **options}
    sizes = [weight.numel() for weight in net().weights]
    with pytest.raises(UsageError, match=re.escape(message)):
        Budget(Unstructured(0.5), sizes, 0.98, **arguments)


def test_the_reachable_minimum_is_named_and_works():
    """The number in the hint must be one that can be asked for."""
    with pytest.raises(UsageError) as caught:
        net().budget({"macs": 0.01})
    least = float(str(caught.value.hint).split("at least ")[1].split()[0])
    net().budget({"macs": least})
    absolute = int(str(caught.value.hint).split("(or ")[1].split(")")[0])
    counts = net().budget({"macs": absolute}).counts(net().scores())
    assert counts == weight_caps([weight.numel() for weight in net().weights], 0.98)
