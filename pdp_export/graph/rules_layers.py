"""Rules for layers with weights: they close the channels they read and open new ones."""

from __future__ import annotations

from torch.fx import Node

from pdp_export.graph.nodes import argument, layer_of, shape, tensor_of
from pdp_export.graph.slots import Channels, Ids
from pdp_export.graph.tracing import Flow, Trace, repeated, without_rule


def convolution(trace: Trace, node: Node) -> Flow:
    """Convolve; weight (C_out, C_in / groups, k...).

    Reads on axis 1, opens slots on axis 0. Depthwise: each output keeps the slot of its input (m outputs
    per input share it).
    """
    source, weight = argument(node, "input"), argument(node, "weight")
    if not _is_stored(node):
        return without_rule(trace, node, "has a weight that the program computes")
    size = tensor_of(trace.module, str(weight.target)).shape
    axis, groups = _channel_axis(source, len(size)), argument(node, "groups")
    if groups == 1:
        trace.use(weight, 1, _read(trace, source, axis, size[1], node), "consumer", node)
        slots = trace.opened_by(weight, 0, node)
    elif groups > 1 and size[1] == 1 and groups == shape(source)[axis]:
        incoming = _read(trace, source, axis, groups, node)
        slots = repeated(incoming, size[0] // groups)
        trace.use(weight, 0, slots, "follower", node)
    else:
        incoming = _read(trace, source, axis, groups * size[1], node)
        trace.use(weight, 1, incoming, "grouped", node)
        slots = trace.opened_by(weight, 0, node)
    _follow(trace, node, slots)
    return Channels(axis, slots)


def transposed_convolution(trace: Trace, node: Node) -> Flow:
    """Convolve transposed; weight (C_in, C_out / groups, k...): reads on axis 0, opens slots on axis 1.

    Depthwise: each output keeps the slot of its input.
    """
    source, weight = argument(node, "input"), argument(node, "weight")
    size, groups = shape(weight), argument(node, "groups")
    axis = _channel_axis(source, len(size))
    if not _is_stored(node) or groups not in {1, size[0]}:
        return without_rule(trace, node, "has groups of several channels, or a weight that the program computes")
    if groups > 1:
        incoming = _read(trace, source, axis, groups, node)
        trace.use(weight, 0, incoming, "follower", node)
        slots = repeated(incoming, size[1])
        _follow(trace, node, slots)
        return Channels(axis, slots)
    trace.use(weight, 0, _read(trace, source, axis, size[0], node), "consumer", node)
    slots = trace.opened_by(weight, 1, node)
    _follow(trace, node, slots)
    return Channels(axis, slots)


def linear(trace: Trace, node: Node) -> Flow:
    """Multiply the last axis by a weight (C_out, C_in)."""
    source, weight = argument(node, "input"), argument(node, "weight")
    if not _is_stored(node):
        return without_rule(trace, node, "has a weight that the program computes")
    axis = len(shape(node)) - 1
    trace.use(weight, 1, _read(trace, source, axis, shape(source)[axis], node), "consumer", node)
    slots = trace.opened_by(weight, 0, node)
    _follow(trace, node, slots)
    return Channels(axis, slots)


def embedding(trace: Trace, node: Node) -> Flow:
    """Look up rows of a weight (vocabulary, C): each column makes a channel."""
    weight = argument(node, "weight")
    if weight.op != "get_attr":
        return without_rule(trace, node, "has a table that the program computes")
    return Channels(len(shape(node)) - 1, trace.opened_by(weight, 1, node))


def group_norm(trace: Trace, node: Node) -> Flow:
    """Normalise groups of channels: each lives or dies as a whole."""
    channels = trace.channels(argument(node, "input"))
    tensors = [item for item in (argument(node, "weight"), argument(node, "bias")) if item is not None]
    if channels is None or channels.axis != 1 or any(item.op != "get_attr" for item in tensors):
        return without_rule(trace, node, "normalises another axis")
    groups = channels.slots.reshape(argument(node, "num_groups"), -1)
    for column in groups.T[1:]:
        trace.slots.unite(groups[:, 0], column)
    for tensor in tensors:
        trace.use(tensor, 0, channels.slots, "follower", node)
    return Channels(1, channels.slots)


def batch_norm(trace: Trace, node: Node) -> Flow:
    """Scale and shift each channel of axis 1; weight, bias and statistics follow. Results: value, two unused."""
    channels = trace.channels(node.args[0])
    tensors = [item for item in node.args[1:5] if isinstance(item, Node)]
    if channels is None or channels.axis != 1 or any(item.op != "get_attr" for item in tensors):
        return without_rule(trace, node, "normalises another axis")
    for tensor in tensors:
        trace.use(tensor, 0, channels.slots, "follower", node)
    return (Channels(1, channels.slots), None, None)


def _is_stored(node: Node) -> bool:
    bias = argument(node, "bias")
    return argument(node, "weight").op == "get_attr" and (bias is None or bias.op == "get_attr")


def _channel_axis(source: Node, weight_rank: int) -> int:
    """Return 1 for (N, C, ...) and 0 for an unbatched (C, ...)."""
    return 1 if len(shape(source)) == weight_rank else 0


def _read(trace: Trace, source: Node, axis: int, count: int, node: Node) -> Ids:
    """Return the slots that a layer reads; fixed ones where the input could not be followed along `axis`."""
    channels = trace.channels(source)
    if channels is not None and channels.axis == axis:
        return channels.slots
    trace.freeze([source], f"{layer_of(node)} reads it along another axis")
    return trace.fixed(count, f"it is the fixed input of {layer_of(node)}")


def _follow(trace: Trace, node: Node, slots: Ids) -> None:
    bias = argument(node, "bias")
    if bias is not None:
        trace.use(bias, 0, slots, "follower", node)
