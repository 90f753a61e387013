"""Rules for operators that keep, move, pool or concatenate channels without mixing them."""

from __future__ import annotations

import numpy as np
from torch.fx import Node

from pdp_export.graph.nodes import argument, has_argument, layer_of, operator, shape, value
from pdp_export.graph.operators import SPATIAL
from pdp_export.graph.slots import Channels
from pdp_export.graph.tracing import Flow, Trace, without_rule


def same_channels(trace: Trace, node: Node) -> Flow:
    """Keep shape and channels (activations, copies)."""
    channels = trace.channels(node.args[0])
    if channels is None or len(node.all_input_nodes) > 1 or not value(node).is_floating_point():
        return without_rule(trace, node)
    return Channels(channels.axis, channels.slots)


def sizes(trace: Trace, node: Node) -> Flow:
    """Read a dynamic size; channel counts are never dynamic."""
    del trace, node
    return None


def spatial(trace: Trace, node: Node) -> Flow:
    """Pool or resize the last n axes."""
    channels = trace.channels(node.args[0])
    if channels is None:
        return None
    if channels.axis >= len(shape(node)) - SPATIAL[operator(node)]:
        return without_rule(trace, node, "mixes along the channel axis")
    return Channels(channels.axis, channels.slots)


def pixel_shuffle(trace: Trace, node: Node) -> Flow:
    """Spread every r x r channels over one larger image: they live or die together."""
    channels = trace.channels(node.args[0])
    if channels is None:
        return None
    if channels.axis != len(shape(node)) - 3:
        return without_rule(trace, node, "mixes along the channel axis")
    parts = channels.slots.reshape(shape(node)[channels.axis], -1)
    for column in parts.T[1:]:
        trace.slots.unite(parts[:, 0], column)
    return Channels(channels.axis, parts[:, 0])


def pixel_unshuffle(trace: Trace, node: Node) -> Flow:
    """Make r x r channels of every one."""
    channels = trace.channels(node.args[0])
    if channels is None:
        return None
    if channels.axis != len(shape(node)) - 3:
        return without_rule(trace, node, "mixes along the channel axis")
    return Channels(channels.axis, np.repeat(channels.slots, argument(node, "downscale_factor") ** 2))


def padding(trace: Trace, node: Node) -> Flow:
    """Pad the last axes; the list of widths starts with the last axis."""
    channels = trace.channels(node.args[0])
    if channels is None:
        return None
    padded = len(shape(node)) - len(argument(node, "pad")) // 2
    if channels.axis >= padded:
        return without_rule(trace, node, "pads along the channel axis")
    return Channels(channels.axis, channels.slots)


def reduction(trace: Trace, node: Node) -> Flow:
    """Remove axes, never the channel axis."""
    channels = trace.channels(node.args[0])
    if channels is None:
        return None
    rank = len(shape(node.all_input_nodes[0]))
    dims = argument(node, "dim") if has_argument(node, "dim") else None
    reduced = {axis % rank for axis in dims} if dims else set(range(rank))
    if channels.axis in reduced:
        return without_rule(trace, node, "reduces over the channels")
    before = 0 if argument(node, "keepdim") else sum(axis < channels.axis for axis in reduced)
    return Channels(channels.axis - before, channels.slots)


def concatenation(trace: Trace, node: Node) -> Flow:
    """Concatenate: along the channel axis the slots queue up, along another one they are united."""
    rank = len(shape(node))
    sources = [source for source in argument(node, "tensors") if len(shape(source)) == rank]  # or an empty vector
    axis = argument(node, "dim") % rank
    carried = [trace.channels(source) for source in sources]
    known = [channels for channels in carried if channels is not None]
    if not known:
        return None
    if len({channels.axis for channels in known}) > 1 or (len(known) < len(sources) and known[0].axis != axis):
        return without_rule(trace, node, "joins tensors with different channel axes")
    if known[0].axis != axis:
        for other in known[1:]:
            trace.slots.unite(known[0].slots, other.slots)
        return Channels(known[0].axis, known[0].slots)
    reason = f"it is a fixed part of the concatenation in {layer_of(node)}"
    parts = [
        trace.fixed(shape(source)[axis], reason) if channels is None else channels.slots
        for source, channels in zip(sources, carried, strict=True)
    ]
    return Channels(axis, np.concatenate(parts))
