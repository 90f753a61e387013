"""Which parameters share one channel axis, and so must be pruned together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from pdp_export.errors import UsageError
from pdp_export.graph.channel_constants import channel_constants
from pdp_export.graph.channel_trace import trace
from pdp_export.graph.facts import Facts, known_constants
from pdp_export.graph.nodes import argument, aten, layer_of, operator, tensor_of
from pdp_export.graph.slots import Ids, Ties, Use
from pdp_export.graph.tracing import Trace

_SCALING = {aten.mul, aten.div}


@dataclass(frozen=True)
class ChannelGroup:
    """Parameters of one channel axis, by their names in the original module.

    Attributes:
        name: The first filter's name.
        channels: How many channels the axis has.
        filters: Weights whose axis 0 makes these channels, entry i being channel i. Zero row i of all
            of them, and of `followers`, and channel i is zero wherever it is read; with free ties, as far
            as the first join, which it enters as zero.
        followers: Parameters with axis 0 = channel that go along: biases, BatchNorm weight and bias,
            depthwise weights and biases.
        consumers: Weights that read these channels; their input axis may be wider (after a flatten
            or a concatenation).
        frozen: Why no channel may be pruned; None if they may.
    """

    name: str
    channels: int
    filters: tuple[str, ...]
    followers: tuple[str, ...]
    consumers: tuple[str, ...]
    frozen: str | None


def channel_groups(program: ExportedProgram, ties: Ties = "stream") -> list[ChannelGroup]:
    """Return the groups of a captured program, in the order of their first filter.

    A depthwise convolution and a BatchNorm follow their producer. What a rule does not cover is frozen with
    the reason, never guessed.

    Args:
        program: The captured program.
        ties: "stream": a residual join ties all writers of the stream. "free": each filter is a group of its
            own (with others only where they share parameters), and the branches of a join may disagree.
            Followers and consumers are then those before the join; what acts on the joined stream belongs
            to no group.

    Raises:
        UsageError: for another word than these two.
    """
    if ties not in get_args(Ties):
        raise UsageError(f"unknown ties {ties!r}", where="ties", hint=f"use one of: {', '.join(get_args(Ties))}")
    module = program.module(check_guards=False)
    traced = trace(module, ties)
    members = _members(traced)
    frozen = traced.slots.frozen()
    parameters = set(program.graph_signature.parameters)
    reasons = [_reason(traced, uses, frozen, parameters) or _in_parts(traced, uses) for uses in members]
    nonzero = _nonzero_readers(
        traced, module, [uses for uses, why in zip(members, reasons, strict=True) if why is None]
    )
    groups = []
    for uses, why in zip(members, reasons, strict=True):
        roots = set(traced.slots.roots(uses[0].slots).tolist())
        late = next((reason for slot, reason in nonzero.items() if slot in roots), None)
        groups.append(_group(traced, uses, why or late, parameters))
    return groups


def _members(traced: Trace) -> list[list[Use]]:
    """Return, for each set of tied filters, every use of its slots; the filters come first."""
    owner: dict[int, int] = {}  # slot -> group
    tied: dict[int, list[int]] = {}
    filters = [use for use in traced.uses if use.role == "filter"]
    for number, use in enumerate(filters):
        roots = set(traced.slots.roots(use.slots).tolist())
        joined = sorted({owner[root] for root in roots if root in owner})
        tied[number] = [member for group in joined for member in tied.pop(group)] + [number]
        for member in tied[number]:
            owner.update(dict.fromkeys(traced.slots.roots(filters[member].slots).tolist(), number))
    groups = sorted((sorted(members) for members in tied.values()), key=lambda members: members[0])
    return [[*(filters[i] for i in members), *_others(traced, [filters[i] for i in members])] for members in groups]


def _others(traced: Trace, filters: list[Use]) -> list[Use]:
    slots = np.unique(np.concatenate([traced.slots.roots(use.slots) for use in filters]))
    others = [use for use in traced.uses if use.role != "filter"]
    return [use for use in others if np.isin(traced.slots.roots(use.slots), slots).any()]


def _reason(traced: Trace, uses: list[Use], frozen: dict[int, str], parameters: set[str]) -> str | None:
    """Return why this group may not be pruned, as far as its shape tells."""
    order = traced.slots.roots(uses[0].slots)
    for slot in order.tolist():
        if slot in frozen:
            return frozen[slot]
    for use in uses:
        if use.role in ("consumer", "grouped"):
            continue
        if use.tensor not in parameters and use.role == "filter":
            return f"{use.tensor} is no parameter"
        if not _same_order(traced.slots.roots(use.slots), order):
            return f"{use.tensor} carries only some of these channels, or in another order or number"
        if use.axis != 0 and operator(use.node) not in _SCALING:
            return f"{use.tensor} carries the channels on axis {use.axis}"
    return None


def _in_parts(traced: Trace, uses: list[Use]) -> str | None:
    """Return why these channels go only several at a time: a head, or groups that stay equal."""
    order = traced.slots.roots(uses[0].slots)
    if len(np.unique(order)) < len(order):
        return f"several rows of {uses[0].tensor} share one fate (a head)"
    for grouped in [use for use in traced.uses if use.role == "grouped"]:
        made = any(use.node is grouped.node and use.role == "filter" for use in uses)
        if made or np.isin(traced.slots.roots(grouped.slots), order).any():
            return f"{layer_of(grouped.node)} has {argument(grouped.node, 'groups')} groups of several channels"
    return None


def _same_order(roots: Ids, order: Ids) -> bool:
    return np.array_equal(roots, order)


def _nonzero_readers(traced: Trace, module: GraphModule, members: list[list[Use]]) -> dict[int, str]:
    """Return slots that would not be zero where they are read although all their parameters were."""
    zeroed = {use.tensor for uses in members for use in uses if use.role != "consumer" and use.axis == 0}

    def lookup(name: str) -> Tensor:
        tensor = tensor_of(module, name)
        return torch.zeros_like(tensor) if name in zeroed and isinstance(tensor, torch.nn.Parameter) else tensor

    found: dict[int, str] = {}
    pruned = {int(slot) for uses in members for slot in traced.slots.roots(uses[0].slots)}
    for node, slots, values in _readings(traced, known_constants(module, lookup)):
        reason = f"a channel without weights is not zero where {layer_of(node)} reads it"
        for slot, number in zip(traced.slots.roots(slots).tolist(), values, strict=True):
            if slot in pruned and number != 0:
                found.setdefault(slot, reason)
    return found


def _readings(traced: Trace, facts: Facts) -> Iterator[tuple[Node, Ids, list[float]]]:
    """Yield every place where channels must be zero, with their slots and what is read there."""
    for use in traced.uses:
        if use.role in ("consumer", "grouped"):
            yield (
                use.node,
                use.slots,
                channel_constants(traced, facts, argument(use.node, "input"), len(use.slots)).tolist(),
            )
    for join in traced.joins:
        yield join.node, join.slots, channel_constants(traced, facts, join.source, len(join.slots)).tolist()


def _group(traced: Trace, uses: list[Use], frozen: str | None, parameters: set[str]) -> ChannelGroup:
    def names(role: str) -> tuple[str, ...]:
        chosen = [use for use in uses if use.role.replace("grouped", "consumer") == role and use.tensor in parameters]
        on_axis = [use.tensor for use in chosen if role != "follower" or use.axis == 0]
        return tuple(dict.fromkeys(on_axis))

    return ChannelGroup(
        name=uses[0].tensor,
        channels=len(np.unique(traced.slots.roots(uses[0].slots))),
        filters=names("filter"),
        followers=names("follower"),
        consumers=names("consumer"),
        frozen=frozen,
    )
