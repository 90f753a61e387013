"""The rule for operators that combine tensors element by element: what meets must live or die together.

Unless ties are free: then a sum (a residual join) ends its branches, and each may die alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch.fx import Node

from pdp_export.graph.nodes import aten, is_tensor, layer_of, operator, operator_name, shape
from pdp_export.graph.slots import Channels, Ids
from pdp_export.graph.tracing import Flow, Trace, without_rule

_JOINS = {aten.add, aten.sub, aten.rsub, aten.maximum, aten.minimum}
"""Where one operand may be zero without the other. A product is none: a gate goes with what it gates."""


def elementwise(trace: Trace, node: Node) -> Flow:
    """Combine one or two tensors with broadcasting.

    Operands that carry channels along the same axis are united; a stored tensor of that length follows
    them. A tensor that cannot be followed freezes them, unless it is broadcast along the axis. With
    free ties a join opens a new stream instead.
    """
    rank = len(shape(node))
    operands = [source for source in node.all_input_nodes if is_tensor(source)]
    axes = {_aligned(channels.axis, source, rank) for source in operands if (channels := _carried(trace, source, node))}
    if not axes:
        return without_rule(trace, node, "spreads one channel over many")
    if len(axes) > 1:
        return without_rule(trace, node, "meets channels along two axes")
    axis = axes.pop()
    carried = {source: channels for source in operands if (channels := _carried(trace, source, node))}
    others = [source for source in operands if source not in carried]
    slots = _met(trace, node, carried, [source for source in others if not _is_spread(source, axis, node)])
    for source in others:
        _join_fixed(trace, node, source, Channels(axis, slots))
    return Channels(axis, slots)


def _met(trace: Trace, node: Node, carried: Mapping[Node, Channels], others: list[Node]) -> Ids:
    """Return the slots of the result: those of the operands, united, or those of a new stream."""
    first, *rest = [channels.slots for channels in carried.values()]
    if trace.ties == "free" and operator(node) in _JOINS:
        agree = all(np.array_equal(trace.slots.roots(first), trace.slots.roots(other)) for other in rest)
        if not agree or any(source.op != "get_attr" for source in others):
            return trace.join(node, carried)
    for other in rest:
        trace.slots.unite(first, other)
    return first


def _carried(trace: Trace, source: Node, node: Node) -> Channels | None:
    """Return the channels of an operand, unless it has one channel that is spread over many."""
    channels = trace.channels(source)
    if channels is None:
        return None
    size = shape(node)[_aligned(channels.axis, source, len(shape(node)))]
    return channels if len(channels.slots) == size else None


def _aligned(axis: int, source: Node, rank: int) -> int:
    return axis + rank - len(shape(source))


def _is_spread(source: Node, axis: int, node: Node) -> bool:
    """Tell whether an operand has fewer entries than the result along this axis of it."""
    own_axis = _own_axis(source, axis, node)
    return own_axis < 0 or shape(source)[own_axis] != shape(node)[axis] or shape(node)[axis] == 1


def _own_axis(source: Node, axis: int, node: Node) -> int:
    return axis - (len(shape(node)) - len(shape(source)))


def _join_fixed(trace: Trace, node: Node, source: Node, joined: Channels) -> None:
    """Deal with an operand that does not bring channels along the axis of the result."""
    trace.freeze([source], f"{operator_name(node)} ({layer_of(node)}) spreads it over all channels")
    spread = _is_spread(source, joined.axis, node)
    if source.op == "get_attr":
        if not spread:
            trace.use(source, _own_axis(source, joined.axis, node), joined.slots, "follower", node)
        elif math.prod(shape(source)) == 1:
            trace.account(source, node)
    elif not spread:
        trace.slots.freeze(joined.slots, f"{operator_name(node)} ({layer_of(node)}) joins it with a fixed tensor")
