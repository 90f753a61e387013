"""How many elements each mask prunes in the end, decided once.

By default one global ranking decides (PDP, Algorithm 1 as reported): what falls below one common
threshold is each layer's share. A cap keeps any single layer from being emptied; what the cap saves
is taken from the other layers, so that the total is met exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from pdp_export.errors import UsageError, near_misses
from pdp_export.pruning.allocation.channel_blocks import ChannelBudget, ChannelRanking, channel_caps, rounded_to_blocks
from pdp_export.pruning.allocation.costs import Limit, channel_work, weight_work
from pdp_export.pruning.allocation.proportional import erk_weights, proportional, uniform_weights
from pdp_export.pruning.allocation.ranking import Ranking
from pdp_export.pruning.patterns import NM, Channel, Pattern

if TYPE_CHECKING:
    from torch.export import ExportedProgram

METHODS = ("global", "uniform", "erk")


class Allocation(Protocol):
    """Decides how many elements each mask prunes."""

    def counts(self, scores: Sequence[Tensor]) -> list[int]:
        """Return one count per mask; `scores` holds each mask's, float32, shape (size,)."""


@dataclass(frozen=True)
class FixedAllocation:
    """Counts that do not depend on the weights."""

    pruned: Sequence[int]

    def counts(self, scores: Sequence[Tensor]) -> list[int]:
        """Return the same counts whatever the scores."""
        del scores
        return list(self.pruned)


class Budget:
    """What a pattern's sparsity, or a budget, means for masks of these sizes; checked before any training.

    Args:
        pattern: Weights and blocks are met exactly, channels up to half a block of `align`; N:M fixes
            the share of every layer by itself.
        sizes: The elements of each mask: weights, blocks or channels.
        max_layer_sparsity: The largest share that any mask loses; what this saves is taken elsewhere.
        method: "global" ranks all elements together. "uniform" prunes the same share everywhere. "erk" keeps
            a density in proportion to ``sum(dims) / prod(dims)`` of each weight (see `erk_weights`), which
            says nothing about channels.
        shapes: The shape of each mask's weight, for "erk".
        budget: ``{"macs": x}``, ``{"parameters": x}`` or ``{"cost": x}``, see `Limit`. It takes the place
            of the pattern's sparsity, which is not read then. Kept is never more than x, and less by less
            than one element.
        costs: The cost of one weight by layer (a measured latency, say), for a budget of "cost".
        program: The captured model, for a budget.
        names: Each mask's parameters, under every name they have (channels: the group's first filter
            first), for a budget.

    Raises:
        UsageError: for a wrong argument, and when caps do not leave enough to prune; it says what can be
            reached.
    """

    def __init__(
        self,
        pattern: Pattern,
        sizes: Sequence[int],
        max_layer_sparsity: float,
        *,
        method: str = "global",
        shapes: Sequence[Sequence[int]] | None = None,
        budget: Mapping[str, float] | None = None,
        costs: Mapping[str, float] | None = None,
        program: ExportedProgram | None = None,
        names: Sequence[Sequence[str]] = (),
    ) -> None:
        if not 0 < max_layer_sparsity <= 1:
            raise UsageError(f"max_layer_sparsity is {max_layer_sparsity}, it must lie in (0, 1]", where="Pruner")
        _check_method(pattern, method, budget, costs)
        self.pattern, self.sizes = pattern, list(sizes)
        self._work: Callable[[Sequence[int]], float] | None = None
        if isinstance(pattern, Channel):
            self.caps = channel_caps(sizes, max_layer_sparsity, pattern.align)
        else:
            self.caps = weight_caps(sizes, max_layer_sparsity)
        if isinstance(pattern, NM):
            self._allocation: Allocation = _fixed_by_groups(pattern, sizes, max_layer_sparsity)
        elif budget is not None or costs is not None:
            self._allocation = self._within(Limit.from_mapping(budget or {}, costs), program, names)
        else:
            self._allocation = self._share(pattern.sparsity, method, shapes)

    def counts(self, scores: Sequence[Tensor]) -> list[int]:
        """Return how many weights, blocks or channels each mask prunes in the end."""
        return self._allocation.counts(scores)

    def kept_share(self, pruned: Sequence[int]) -> float | None:
        """Return the share of the budgeted work that stays without these elements; None without a budget.

        Of channels it counts what surely goes; the real share may be smaller.
        """
        return None if self._work is None else self._work(pruned) / self._work([0] * len(pruned))

    def _share(self, sparsity: float, method: str, shapes: Sequence[Sequence[int]] | None) -> Allocation:
        size, most = sum(self.sizes), sum(self.caps)
        pruned = round(sparsity * size)
        if pruned > most:
            unit = "channels" if isinstance(self.pattern, Channel) else "elements"
            raise UsageError(
                f"sparsity {sparsity} cannot be reached: {pruned} of {size} {unit} would have to go, "
                f"at most {most} can",
                where="pruning.sparsity",
                hint=f"ask for at most {math.floor(1000 * most / size) / 1000}, or raise max_layer_sparsity, "
                "or lower align",
            )
        if method != "global":
            return self._fixed_share(pruned, method, shapes)
        if isinstance(self.pattern, Channel):
            return ChannelRanking(self.sizes, self.caps, self.pattern.align, pruned)
        return Ranking([1] * len(self.sizes), self.caps, pruned)

    def _fixed_share(self, pruned: int, method: str, shapes: Sequence[Sequence[int]] | None) -> Allocation:
        weights = erk_weights(self.sizes, shapes) if method == "erk" else uniform_weights(self.sizes)
        least = [size - cap for size, cap in zip(self.sizes, self.caps, strict=True)]
        total = sum(self.sizes) - pruned
        kept = proportional(weights, least, self.sizes, total)
        if isinstance(self.pattern, Channel):
            kept = rounded_to_blocks(kept, self.sizes, total, self.pattern.align)
        return FixedAllocation([size - count for size, count in zip(self.sizes, kept, strict=True)])

    def _within(self, limit: Limit, program: ExportedProgram | None, names: Sequence[Sequence[str]]) -> Allocation:
        if program is None:
            raise UsageError(
                f"a budget of {limit.kind} needs example_inputs, to find what every layer costs",
                where="Pruner(example_inputs=...)",
                hint="pass a tuple of input tensors",
            )
        if isinstance(self.pattern, Channel):
            filters = [group[0] for group in names]
            work = channel_work(program, filters, self.pattern.ties, limit)
            self._work = lambda pruned: work.of(np.subtract(self.sizes, pruned))
            most = limit.most(work.of(self.sizes), self._work(self.caps))
            return ChannelBudget(work, most, self.sizes, self.caps, self.pattern.align)
        flat = weight_work(program, names, self.sizes, limit)
        self._work = flat.without
        return Ranking(flat.unit, self.caps, flat.total - limit.most(flat.total, flat.without(self.caps)))


def weight_caps(sizes: Sequence[int], max_layer_sparsity: float) -> list[int]:
    """Return the most weights that each layer may lose; one weight at least stays."""
    return [min(size - 1, math.floor(size * max_layer_sparsity)) for size in sizes]


def _check_method(
    pattern: Pattern, method: str, budget: Mapping[str, float] | None, costs: Mapping[str, float] | None
) -> None:
    if budget is not None and not isinstance(budget, Mapping):
        raise UsageError(f"the budget is {budget!r}, it must be a mapping", where="budget", hint='{"macs": 0.3}')
    if method not in METHODS:
        known = f"use one of: {', '.join(METHODS)}"
        raise UsageError(f"unknown allocation {method!r}{near_misses(method, METHODS)}", where="allocation", hint=known)
    if isinstance(pattern, NM) and (method != "global" or budget is not None or costs is not None):
        raise UsageError(
            f"{pattern} prunes the same share of every layer: no allocation and no budget can change that",
            where="allocation",
            hint="leave both out, or use Unstructured or Block",
        )
    if isinstance(pattern, Channel) and method == "erk":
        raise UsageError(
            "the allocation 'erk' is a density of single weights and says nothing about channels",
            where="allocation",
            hint="use 'global' or 'uniform', or a budget",
        )
    if budget is not None and method != "global":
        raise UsageError(
            f"a budget decides every layer's share by itself, so the allocation {method!r} has no say",
            where="allocation",
            hint="leave out the allocation or the budget",
        )


def _fixed_by_groups(pattern: NM, sizes: Sequence[int], max_layer_sparsity: float) -> FixedAllocation:
    uneven = [size for size in sizes if size % pattern.m]
    if uneven:
        raise UsageError(f"a layer of {uneven[0]} weights has no whole groups of {pattern.m}", where=str(pattern))
    if pattern.sparsity > max_layer_sparsity:
        raise UsageError(
            f"{pattern} prunes {pattern.sparsity:.3f} of every layer, and max_layer_sparsity is {max_layer_sparsity}",
            where="max_layer_sparsity",
            hint="raise max_layer_sparsity, or keep more weights of each group",
        )
    return FixedAllocation([size // pattern.m * (pattern.m - pattern.n) for size in sizes])
