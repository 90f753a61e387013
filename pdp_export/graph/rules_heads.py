"""Rules for attention: a head lives or dies as a whole, in queries, keys and values alike."""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node

from pdp_export.graph.nodes import argument, is_tensor, shape
from pdp_export.graph.slots import Channels, Contraction, Ids, SplitChannels
from pdp_export.graph.tracing import Flow, Trace, collapse, without_rule

_MATRIX = 2


def attention(trace: Trace, node: Node) -> Flow:
    """Attend: (N, heads, tokens, size) each; with grouped queries several heads share a key and a value."""
    query, key, values = (trace.split(argument(node, name)) for name in ("query", "key", "value"))
    head = len(shape(node)) - 3
    if query is None or key is None or values is None or {query.axes, key.axes, values.axes} != {(head, head + 2)}:
        return without_rule(trace, node, "has no axis of heads that could be followed")
    mask = argument(node, "attn_mask")
    if mask is not None and len(shape(mask)) > _MATRIX and shape(mask)[-3] != 1:
        return without_rule(trace, node, "has a mask for each head")
    _tie_heads(trace, query, key)
    _tie_heads(trace, query, values)
    times = len(query.slots) // len(values.slots)
    return SplitChannels(values.axes, np.repeat(values.slots, times, axis=0))


def product(trace: Trace, node: Node) -> Flow:
    """Multiply matrices (..., M, K) and (..., K, N) whose batch axes hold the heads, or whose K the channels."""
    first, second = node.args[:2]
    if not isinstance(first, Node) or not isinstance(second, Node) or not _are_matrices(first, second):
        return without_rule(trace, node)
    rank = len(shape(node))
    heads = [_heads(trace, item, rank) for item in (first, second)]
    if heads[0] is not None and heads[1] is not None and heads[0][0] == heads[1][0]:
        axis = heads[0][0]
        if len(heads[0][1]) != len(heads[1][1]):
            return without_rule(trace, node, "spreads one channel over many")
        trace.slots.unite(heads[0][1], heads[1][1])
        split = trace.split(second)
        if split is not None and split.axes == (axis, rank - 1):
            return SplitChannels(split.axes, split.slots)
        return Channels(axis, heads[0][1])
    return _contraction(trace, node, first, second)


def _are_matrices(first: Node, second: Node) -> bool:
    return is_tensor(first) and is_tensor(second) and len(shape(first)) == len(shape(second)) >= _MATRIX


def _heads(trace: Trace, node: Node, rank: int) -> tuple[int, Ids] | None:
    """Return the axis of the heads and one slot for each, united with the rest of its head."""
    split, whole = trace.split(node), trace.channels(node)
    if whole is not None and whole.axis < rank - _MATRIX:
        return whole.axis, whole.slots
    if split is None or len(split.axes) != _MATRIX or split.axes[0] >= rank - _MATRIX:
        return None
    collapse(trace, split)
    return split.axes[0], split.slots[:, 0]


def _contraction(trace: Trace, node: Node, first: Node, second: Node) -> Flow:
    """Tie the channels that are summed over; nothing is known of the others."""
    left, right, rank = trace.channels(first), trace.channels(second), len(shape(node))
    if left is None or right is None or (left.axis, right.axis) != (rank - 1, rank - 2):
        return without_rule(trace, node, "mixes channels that could not be followed")
    trace.slots.unite(left.slots, right.slots)
    trace.contractions.append(Contraction(node, first, second))
    return None


def softmax(trace: Trace, node: Node) -> Flow:
    """Normalise along an axis that holds no channels."""
    channels = trace.channels(node.args[0])
    if channels is None:
        return None
    if argument(node, "dim") % len(shape(node)) == channels.axis:
        return without_rule(trace, node, "normalises over the channels")
    return Channels(channels.axis, channels.slots)


def same_split(trace: Trace, node: Node) -> Flow:
    """Keep the channels where they are (a copy)."""
    return trace.split(node.args[0])


def each_element(trace: Trace, node: Node) -> Flow:
    """Compute each element of split channels on its own, with numbers or tensors that are the same for all heads."""
    rank = len(shape(node))
    sources = [source for source in node.all_input_nodes if is_tensor(source)]
    first, *rest = [(source, split) for source in sources if (split := trace.split(source)) is not None]
    axes, slots = first[1].axes, first[1].slots
    if any(len(shape(source)) != rank or split.axes != axes for source, split in [first, *rest]):
        return without_rule(trace, node, "meets channels along other axes")
    for _, split in rest:
        trace.slots.unite(slots, split.slots)
    others = [source for source in sources if trace.split(source) is None]
    if others:
        collapse(trace, first[1])
    for source in others:
        axis = axes[0] - (rank - len(shape(source)))
        if trace.channels(source) is not None or (axis >= 0 and shape(source)[axis] != 1):
            return without_rule(trace, node, f"joins heads with {source}, which differs between them")
        if math.prod(shape(source)) == 1:
            trace.account(source, node)
    return SplitChannels(axes, slots)


def _tie_heads(trace: Trace, query: SplitChannels, other: SplitChannels) -> None:
    """Unite each head of the queries with the head of keys or values that it reads."""
    collapse(trace, query)
    collapse(trace, other)
    times = len(query.slots) // len(other.slots)
    trace.slots.unite(query.slots[:, 0], np.repeat(other.slots[:, 0], times))
