"""The rule for operators that only rearrange elements: they are run on the numbers of the channels.

So nothing can be missed: where the numbers end up is where the channels are. A view can spread them over
several axes (heads, a channel shuffle) and another one bring them back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from pdp_export.graph.movement import rerun
from pdp_export.graph.nodes import argument, aten, has_argument, operator, shape, value
from pdp_export.graph.slots import Channels, Ids, SplitChannels
from pdp_export.graph.tracing import Flow, Trace, collapse, without_rule

_WHOLE = {aten.roll, aten.flip}
"""Must leave the channel axes alone: their arguments could not be corrected."""

_CONTIGUOUS = {aten.slice, aten.split, aten.split_with_sizes}
"""Must take neighbouring channels where they cut the channel axis."""


def movement(trace: Trace, node: Node) -> Flow:
    """Rearrange the channels of one tensor."""
    source = node.args[0]
    carried = trace.channels(source) or trace.split(source)
    if carried is None or not isinstance(source, Node):
        return None
    if node.target is aten.view.dtype:
        return without_rule(trace, node, "reads the bits as other numbers")
    if operator(node) is aten.squeeze and _squeezes(node, carried):
        return without_rule(trace, node, "would also squeeze a single remaining channel")
    parts = [_located(trace, node, source, carried, part) for part in _moved_numbers(node, source, carried)]
    if any(part is None for part in parts):
        return without_rule(trace, node, "splits or drops the channel axis in a way that has no rule")
    return tuple(parts) if isinstance(value(node), list | tuple) else parts[0]


def _axes(carried: Channels | SplitChannels) -> tuple[int, ...]:
    return (carried.axis,) if isinstance(carried, Channels) else carried.axes


def _squeezes(node: Node, carried: Channels | SplitChannels) -> bool:
    """Tell whether a channel axis would be dropped if one channel remained."""
    if not has_argument(node, "dim"):
        return True
    dims = argument(node, "dim")
    rank = len(shape(node.all_input_nodes[0]))
    return bool({axis % rank for axis in ([dims] if isinstance(dims, int) else dims)} & set(_axes(carried)))


def _moved_numbers(node: Node, source: Node, carried: Channels | SplitChannels) -> list[Tensor]:
    axes = _axes(carried)
    numbers = torch.arange(carried.slots.size)
    size = shape(source)
    tensor = numbers.view([size[axis] if axis in axes else 1 for axis in range(len(size))]).expand(size)

    result = rerun(node, source, tensor)
    return list(result) if isinstance(result, list | tuple) else [result]


def _located(
    trace: Trace, node: Node, source: Node, carried: Channels | SplitChannels, moved: Tensor
) -> Channels | SplitChannels | None:
    """Find the axes along which the channel numbers vary, and read them off."""
    axes = tuple(axis for axis in range(moved.dim()) if _varies(moved, axis))
    if not axes or any(_is_dynamic(node, axis) for axis in axes) or _skips(node):
        return None
    index = _lines(moved, axes)
    if operator(node) in _WHOLE and not np.array_equal(index.ravel(), np.arange(carried.slots.size)):
        return None
    slots = carried.slots.ravel()[index]
    origin, order = (source, index) if isinstance(carried, Channels) else (carried.origin, carried.order)
    if isinstance(carried, SplitChannels) and order is not None:
        order = order.ravel()[index]
    if len(axes) > 1:
        return SplitChannels(axes, slots, origin, order)
    if isinstance(carried, Channels):
        gaps = operator(node) in _CONTIGUOUS and bool(np.any(np.diff(index) != 1))
        return None if gaps else Channels(axes[0], slots, source, index)
    if origin is None or not _gatherable(trace, node, origin, axes[0]):
        collapse(trace, carried)
        origin = order = None
    return Channels(axes[0], slots, None, None, origin, order)


def _skips(node: Node) -> bool:
    return operator(node) is aten.slice and argument(node, "step") != 1


def _gatherable(trace: Trace, node: Node, origin: Node, axis: int) -> bool:
    """Tell whether one gather along the channel axis of `origin` could give this tensor."""
    channels, new, old = trace.channels(origin), value(node), value(origin)
    if channels is None or isinstance(new, list | tuple) or channels.axis != axis or new.dim() != old.dim():
        return False
    return all(a == axis or new.shape[a] == old.shape[a] for a in range(new.dim()))


def _varies(tensor: Tensor, axis: int) -> bool:
    if tensor.shape[axis] <= 1 or tensor.stride(axis) == 0:
        return False
    return not torch.equal(tensor, tensor.narrow(axis, 0, 1).expand_as(tensor))


def _lines(tensor: Tensor, axes: tuple[int, ...]) -> Ids:
    """Return the numbers along these axes, at the first entry of all others."""
    result: Ids = tensor[tuple(slice(None) if axis in axes else 0 for axis in range(tensor.dim()))].numpy()
    return result.astype(np.int64)


def _is_dynamic(node: Node, axis: int) -> bool:
    result = value(node)
    tensor = result[0] if isinstance(result, list | tuple) else result
    return not isinstance(tensor.shape[axis], int)
