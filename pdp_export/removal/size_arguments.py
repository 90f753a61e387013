"""Corrects arguments that hold channel counts and positions: groups, shapes, bounds of slices, sizes of parts."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import Any

import numpy as np
from torch.fx import Node

from pdp_export.graph.nodes import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    argument,
    aten,
    has_argument,
    operator,
    set_argument,
    shape,
)
from pdp_export.graph.operators import CUTS
from pdp_export.graph.slots import SplitChannels
from pdp_export.removal.planning import Plan


def correct_sizes(plan: Plan, node: Node) -> None:
    """Correct arguments that hold a channel count: groups, shapes, slice bounds, split sizes."""
    split = plan.trace.split(node.args[0]) if node.args else None
    if split is not None and operator(node) in CUTS:
        _cut(plan, node, split)
        return
    correction = _CORRECTIONS.get(operator(node))
    if correction is not None:
        correction(plan, node)


def _groups(plan: Plan, node: Node) -> None:
    """A depthwise layer has as many groups as input channels; other groupings see `_slice_groups`."""
    channels, groups = plan.trace.channels(argument(node, "input")), argument(node, "groups")
    if channels is not None and groups > 1 and groups == len(channels.slots):
        narrow = plan.narrowed.get(node)
        set_argument(node, "groups", len(plan.kept(channels.slots) if narrow is None else narrow.columns))


def _norm_groups(plan: Plan, node: Node) -> None:
    """GroupNorm keeps the groups that stay, each of the old size."""
    channels, groups = plan.trace.channels(node), argument(node, "num_groups")
    if channels is not None:
        set_argument(node, "num_groups", len(plan.kept(channels.slots)) * groups // len(channels.slots))


def _shape(name: str) -> Callable[[Plan, Node], None]:
    def correct(plan: Plan, node: Node) -> None:
        if not has_argument(node, name):
            return  # a view as another dtype
        channels, split = plan.trace.channels(node), plan.trace.split(node)
        new: dict[int, int] = {}
        if channels is not None:
            new = {channels.axis: len(plan.kept(channels.slots))}
        elif split is not None:
            new = {axis: len(kept) for axis, kept in zip(split.axes, plan.kept_along(split), strict=True)}
        old = list(argument(node, name))
        sizes = [size if size == -1 else new.get(axis, size) for axis, size in enumerate(old)]
        if sizes != old:
            set_argument(node, name, sizes)

    return correct


def _slice(plan: Plan, node: Node) -> None:
    """Replace the bounds of a slice along the channel axis by how many channels remain below them."""
    source, result = plan.trace.channels(node.args[0]), plan.trace.channels(node)
    if source is None or result is None or result.index is None or plan.keeps_all(source):
        return
    if argument(node, "dim") % len(node.args[0].meta["val"].shape) != source.axis:  # type: ignore[union-attr]
        return
    below = np.searchsorted(plan.kept(source.slots), [result.index[0], result.index[-1] + 1])
    set_argument(node, "start", int(below[0]))
    set_argument(node, "end", int(below[1]))


def _split(plan: Plan, node: Node) -> None:
    """Split into what remains of each part; equal sizes become a list of sizes."""
    source, parts = plan.trace.channels(node.args[0]), plan.trace.flows[node]
    if source is None or not isinstance(parts, tuple) or plan.keeps_all(source):
        return
    if argument(node, "dim") % len(node.args[0].meta["val"].shape) != source.axis:  # type: ignore[union-attr]
        return
    sizes = [len(plan.kept(part.slots)) for part in parts if part is not None]
    axis = argument(node, "dim")
    node.target = aten.split_with_sizes.default
    node.args, node.kwargs = (node.args[0], sizes, axis), {}


def _cut(plan: Plan, node: Node, split: SplitChannels) -> None:
    """Correct a cut along one of several channel axes: positions count what stays before them."""
    source = node.all_input_nodes[0]
    axis = argument(node, "dim") % len(shape(source))
    if axis not in split.axes:
        return
    kept, count = plan.kept_along(split)[split.axes.index(axis)], shape(source)[axis]

    def moved(position: int) -> int:
        return int(np.searchsorted(kept, position % count if position < 0 else min(position, count)))

    if operator(node) is aten.slice:
        start, end = argument(node, "start"), argument(node, "end")
        set_argument(node, "start", moved(start or 0))
        set_argument(node, "end", moved(count if end is None else end))
    elif operator(node) is aten.select:
        set_argument(node, "index", moved(argument(node, "index")))
    elif operator(node) is aten.unbind:
        for user in list(node.users):
            if user.target is getitem:
                user.args = (node, moved(int(str(user.args[1]))))
    else:
        sizes = [part.shape[axis] for part in node.meta["val"]]
        bounds = np.searchsorted(kept, np.cumsum([0, *sizes]))
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (source, np.diff(bounds).tolist(), axis), {}


_CORRECTIONS: dict[Any, Callable[[Plan, Node], None]] = {
    **dict.fromkeys(CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS, _groups),
    aten.group_norm: _norm_groups,
    aten.view: _shape("size"),
    aten._unsafe_view: _shape("size"),
    aten.reshape: _shape("shape"),
    aten.expand: _shape("size"),
    aten.slice: _slice,
    aten.split: _split,
    aten.split_with_sizes: _split,
}
