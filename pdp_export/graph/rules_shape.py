"""Rules for operators that keep, move, pool or concatenate channels without mixing them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from pdp_export.graph.nodes import argument, has_argument, layer_of, operator, shape, value
from pdp_export.graph.operators import SPATIAL, aten
from pdp_export.graph.slots import Channels, Ids, as_ids
from pdp_export.graph.tracing import Flow, Trace, without_rule

_VIEWS = {aten.view, aten._unsafe_view}

_WHOLE = {aten.roll, aten.flip}
"""Must leave the channel axis alone: their arguments could not be corrected."""

_CONTIGUOUS = {aten.slice, aten.split, aten.split_with_sizes}
"""Must take neighbouring channels where they cut the channel axis."""


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
    sources, rank = list(argument(node, "tensors")), len(shape(node))
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


def movement(trace: Trace, node: Node) -> Flow:
    """Rearrange elements: the operator itself is run on the numbers of the channels, so nothing can be missed."""
    source = node.args[0]
    channels = trace.channels(source)
    if channels is None or not isinstance(source, Node):
        return None
    if operator(node) is aten.squeeze and not has_argument(node, "dim"):
        return without_rule(trace, node, "would also squeeze a single remaining channel")
    moved = _moved_numbers(node, source, channels)
    results = [_located(node, source, channels, part) for part in moved]
    if any(result is None for result in results):
        return without_rule(trace, node, "splits or drops the channel axis in a way that has no rule")
    return tuple(results) if isinstance(value(node), list | tuple) else results[0]


def _moved_numbers(node: Node, source: Node, channels: Channels) -> list[Tensor]:
    numbers = torch.arange(len(channels.slots))
    stretched = [1] * len(shape(source))
    stretched[channels.axis] = -1
    tensor = numbers.view(stretched).expand(shape(source))

    def concrete(item: Any) -> Any:
        if item is source:
            return tensor
        return int(value(item)) if isinstance(item, Node) else item

    # The stretched numbers have no memory of their own, so that most views of them need a copy.
    function: Any = aten.reshape if operator(node) in _VIEWS else node.target
    result = function(*map_aggregate(node.args, concrete), **map_aggregate(node.kwargs, concrete))
    return list(result) if isinstance(result, list | tuple) else [result]


def _located(node: Node, source: Node, channels: Channels, moved: Tensor) -> Channels | None:
    """Find the one axis along which the channel numbers vary, and read them off."""
    varying = [axis for axis in range(moved.dim()) if _varies(moved, axis)]
    if len(varying) != 1 or _is_dynamic(node, varying[0]):
        return None
    index = _line(moved, varying[0])
    whole = operator(node) in _WHOLE and not np.array_equal(index, np.arange(len(channels.slots)))
    gaps = operator(node) in _CONTIGUOUS and bool(np.any(np.diff(index) != 1))
    if whole or gaps:
        return None
    return Channels(varying[0], channels.slots[index], source, index)


def _varies(tensor: Tensor, axis: int) -> bool:
    if tensor.shape[axis] <= 1 or tensor.stride(axis) == 0:
        return False
    return not torch.equal(tensor, tensor.narrow(axis, 0, 1).expand_as(tensor))


def _line(tensor: Tensor, axis: int) -> Ids:
    while tensor.dim() > 1:
        other = 0 if axis != 0 else 1
        tensor, axis = tensor.select(other, 0), axis - (other < axis)
    return as_ids(tensor.numpy())


def _is_dynamic(node: Node, axis: int) -> bool:
    result = value(node)
    tensor = result[0] if isinstance(result, list | tuple) else result
    return not isinstance(tensor.shape[axis], int)
