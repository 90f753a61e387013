"""What a budget limits, and what one element of each mask costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdp_export.errors import UsageError, near_misses

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from pdp_export.graph.channel_work import ChannelWork
    from pdp_export.graph.slots import Ties

KINDS = ("macs", "parameters", "cost")
_MATRIX = 2


@dataclass(frozen=True)
class Limit:
    """The most that may be kept of one kind of cost, over all layers, those never pruned included.

    `kind` is "macs" (dense multiply-accumulates for one example), "parameters", or "cost" (in the unit of
    `costs`, which holds the cost of one weight by layer). `value` below 1 is a share of the dense model, above
    1 an absolute figure.

    Raises:
        UsageError: for another kind or value, or for costs without their kind.
    """

    kind: str
    value: float
    costs: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"unknown budget {self.kind!r}{near_misses(self.kind, KINDS)}",
                where="budget",
                hint=f"use one of: {', '.join(KINDS)}",
            )
        if isinstance(self.value, bool) or not 0 < self.value < math.inf or self.value == 1:
            raise UsageError(
                f"the budget is {self.value}, it must be positive and not 1",
                where=f"budget.{self.kind}",
                hint="below 1 it is the share of the dense model that stays, above 1 an absolute figure",
            )
        if (self.kind == "cost") != (self.costs is not None):
            raise _unpaired()
        for layer, cost in (self.costs or {}).items():
            if not 0 <= cost < math.inf:
                raise UsageError(f"a weight of {layer} costs {cost}, it must cost 0 or more", where=f"costs[{layer!r}]")

    @classmethod
    def from_mapping(cls, budget: Mapping[str, float], costs: Mapping[str, float] | None) -> Limit:
        """Read ``{"macs": 0.3}``."""
        if costs is not None and not budget:
            raise _unpaired()
        if len(budget) != 1:
            raise UsageError(
                f"the budget limits {len(budget)} things, it must limit one", where="budget", hint='{"macs": 0.3}'
            )
        return cls(*next(iter(budget.items())), costs)

    def most(self, total: float, least: float) -> float:
        """Return the most that may be kept of `total`, in its unit; `least` is what the caps leave.

        Raises:
            UsageError: when the limit is below `least`, or not below `total`.
        """
        limit = self.value * total if self.value < 1 else self.value
        asked = f"the budget of {self.value:g} {self.kind}" if self.value > 1 else f"{self.kind} of {self.value:g}"
        if limit >= total:
            raise UsageError(
                f"{asked} need no pruning: the dense model has {total:g}",
                where=f"budget.{self.kind}",
                hint="ask for less, or for a share below 1",
            )
        if limit < least:
            reachable = f"{math.ceil(1000 * least / total) / 1000} (or {math.ceil(least)})"
            raise UsageError(
                f"{asked} cannot be reached: at most {limit:g} of {total:g} may stay, at least {least:g} do",
                where=f"budget.{self.kind}",
                hint=f"ask for at least {reachable}, raise max_layer_sparsity, or prune more layers",
            )
        return limit


@dataclass(frozen=True)
class WeightWork:
    """Work that falls with every pruned element: ``total - sum_m unit[m] * pruned[m]``."""

    total: float
    unit: Sequence[float]

    def without(self, pruned: Sequence[int]) -> float:
        """Return what is left where mask m lost ``pruned[m]`` elements."""
        return self.total - sum(unit * count for unit, count in zip(self.unit, pruned, strict=True))


def weight_work(
    program: ExportedProgram, names: Sequence[Sequence[str]], sizes: Sequence[int], limit: Limit
) -> WeightWork:
    """Return the work of a program whose masks prune single weights, or blocks of equal size.

    Args:
        program: The captured program.
        names: The parameter that each mask prunes, under every name it has.
        sizes: How many elements each mask has.
        limit: Which work.
    """
    from pdp_export.graph.counting import count

    counts = count(program)
    if limit.kind == "macs":
        work: dict[str, float] = {}
        for layer in counts.layers:
            work[layer.weight] = work.get(layer.weight, 0) + layer.macs
        total: float = counts.macs
    else:
        work = _parameters(program, names, limit.costs)
        total = counts.parameters if limit.costs is None else math.fsum(work.values())
    amounts = [sum(work.get(name, 0) for name in dict.fromkeys(group)) for group in names]
    return WeightWork(total, [_divided(amount, size) for amount, size in zip(amounts, sizes, strict=True)])


def channel_work(program: ExportedProgram, groups: Sequence[str], ties: Ties, limit: Limit) -> ChannelWork:
    """Return the work of a program as a function of how many channels each group keeps; arguments as there."""
    from pdp_export.graph.channel_work import channel_macs, channel_parameters

    if limit.kind == "macs":
        return channel_macs(program, groups, ties)
    costs = None if limit.costs is None else _by_parameter(program, [], limit.costs)
    return channel_parameters(program, groups, ties, costs)


def _parameters(
    program: ExportedProgram, names: Sequence[Sequence[str]], costs: Mapping[str, float] | None
) -> dict[str, float]:
    from pdp_export.graph.nodes import used_tensors

    used = used_tensors(program.module(check_guards=False))
    sizes = {name: tensor.numel() for name, tensor in program.named_parameters() if name in used}
    if costs is None:
        return dict(sizes)
    by_parameter = _by_parameter(program, names, costs)
    return {name: size * by_parameter.get(name, 0.0) for name, size in sizes.items()}


def _by_parameter(
    program: ExportedProgram, names: Sequence[Sequence[str]], costs: Mapping[str, float]
) -> dict[str, float]:
    """Return the cost of one entry of each matrix or kernel; a tied one may be named by any of its layers."""
    matrices = [name for name, tensor in program.named_parameters() if tensor.dim() >= _MATRIX]
    aliases = {name: [name, *(other for group in names if name in group for other in group)] for name in matrices}
    layers = {name.rpartition(".")[0] for group in aliases.values() for name in group}
    for layer in costs:
        if layer not in layers:
            raise UsageError(
                f"costs name the layer {layer!r}, which has no weights{near_misses(layer, layers)}", where="costs"
            )
    return {
        name: next((costs[layer] for alias in group if (layer := alias.rpartition(".")[0]) in costs), 0.0)
        for name, group in aliases.items()
    }


def _divided(amount: float, size: int) -> float:
    """Divide; whole numbers stay whole, so that sums of them are exact."""
    whole = isinstance(amount, int) and amount % size == 0
    return amount // size if whole else amount / size


def _unpaired() -> UsageError:
    return UsageError(
        "a budget of 'cost' and costs by layer go together", where="budget", hint='pass budget={"cost": 0.5}'
    )
