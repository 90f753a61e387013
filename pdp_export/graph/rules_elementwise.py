"""The rule for operators that combine tensors element by element: what meets must live or die together."""

from __future__ import annotations

import math

from torch.fx import Node

from pdp_export.graph.nodes import is_tensor, layer_of, operator_name, shape
from pdp_export.graph.slots import Channels
from pdp_export.graph.tracing import Flow, Trace, without_rule


def elementwise(trace: Trace, node: Node) -> Flow:
    """Combine one or two tensors with broadcasting.

    Operands that carry channels along the same axis are united; a stored tensor of that length follows
    them. A tensor that cannot be followed freezes them, unless it is broadcast along the axis.
    """
    rank = len(shape(node))
    operands = [source for source in node.all_input_nodes if is_tensor(source)]
    axes = {_aligned(channels.axis, source, rank) for source in operands if (channels := _carried(trace, source, node))}
    if not axes:
        return without_rule(trace, node, "spreads one channel over many")
    if len(axes) > 1:
        return without_rule(trace, node, "meets channels along two axes")
    axis = axes.pop()
    carried = [channels for source in operands if (channels := _carried(trace, source, node))]
    slots = carried[0].slots
    for other in carried[1:]:
        trace.slots.unite(slots, other.slots)
    for source in operands:
        if _carried(trace, source, node) is None:
            _join_fixed(trace, node, source, Channels(axis, slots), rank)
    return Channels(axis, slots)


def _carried(trace: Trace, source: Node, node: Node) -> Channels | None:
    """Return the channels of an operand, unless it has one channel that is spread over many."""
    channels = trace.channels(source)
    if channels is None:
        return None
    size = shape(node)[_aligned(channels.axis, source, len(shape(node)))]
    return channels if len(channels.slots) == size else None


def _aligned(axis: int, source: Node, rank: int) -> int:
    return axis + rank - len(shape(source))


def _join_fixed(trace: Trace, node: Node, source: Node, joined: Channels, rank: int) -> None:
    """Deal with an operand that does not bring channels along the axis of the result."""
    trace.freeze([source], f"{operator_name(node)} ({layer_of(node)}) spreads it over all channels")
    size = shape(source)
    own_axis = joined.axis - (rank - len(size))
    spread = own_axis < 0 or size[own_axis] != len(joined.slots) or len(joined.slots) == 1
    if source.op == "get_attr":
        if not spread:
            trace.use(source, own_axis, joined.slots, "follower", node)
        elif math.prod(size) == 1:
            trace.account(source, node)
    elif not spread:
        trace.slots.freeze(joined.slots, f"{operator_name(node)} ({layer_of(node)}) joins it with a fixed tensor")
