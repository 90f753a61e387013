"""Carries a plan out: slices stored tensors, folds constants into biases, corrects sizes in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import (
    CONVOLUTIONS,
    argument,
    aten,
    operator,
    replace_tensor,
    set_argument,
    stored,
    tensor_of,
)
from pdp_export.graph.slots import Channels
from pdp_export.removal.copies import gather, insert_copies
from pdp_export.removal.folding import bias_name, drop_unused_tensors, set_bias
from pdp_export.removal.grouping import Grouping, groupings
from pdp_export.removal.planning import Plan
from pdp_export.removal.readers import Mask, Merge, Reader, lines


def apply_plan(plan: Plan) -> None:
    """Rewrite ``plan.trace.module`` in place."""
    module = plan.trace.module
    for reader in plan.readers:
        _fold_constants(module, plan, reader)
    for merge in plan.merges:
        if merge.reader.use.node not in plan.narrowed:
            _merge_constants(module, merge, _lost(plan, merge.reader) & merge.columns)
    for reader in plan.readers:
        narrow = plan.narrowed.get(reader.use.node)
        if narrow is not None and narrow.keeper is not None:
            constant = np.isfinite(reader.constants) & (reader.constants != 0)
            _merge_constants(module, Merge(reader, narrow.keeper, constant), _lost(plan, reader) & constant)
    _slice_tensors(module, plan)
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    for node in nodes:
        _correct_sizes(plan, node)
    for node in nodes:
        _gather(plan, node)
    insert_copies(plan)
    module.graph.eliminate_dead_code()
    drop_unused_tensors(module)
    module.recompile()


def _fold_constants(module: GraphModule, plan: Plan, reader: Reader) -> None:
    """Move what removed constant channels contribute into the reader's bias: b' = b + sum_c (sum_k W[:, c, k]) x_c."""
    gone = _lost(plan, reader) & np.isfinite(reader.constants) & (reader.constants != 0)
    gone &= reader.touched.any(0)
    if not gone.any() or not reader.foldable:
        return
    node, name = reader.use.node, reader.use.tensor
    shift = lines(module, reader.use).sum(2)[:, torch.from_numpy(gone)] @ torch.from_numpy(reader.constants[gone])
    old = stored(module, argument(node, "bias"))
    if old is not None:
        replace_tensor(module, str(argument(node, "bias").target), old.detach() + shift)
    else:  # a new bias, which no use in the trace will slice
        rows = plan.narrowed[node].rows if node in plan.narrowed else plan.kept(reader.rows)
        shift = shift[torch.from_numpy(rows)]
        replace_tensor(module, bias_name(name), shift)
        set_bias(module, node, bias_name(name), shift)


def _lost(plan: Plan, reader: Reader) -> Mask:
    """Return the columns that the reader loses."""
    lost = np.ones(len(reader.columns), dtype=bool)
    lost[plan.stay(reader.use)] = False
    return lost


def _merge_constants(module: GraphModule, merge: Merge, lost: Mask) -> None:
    """Let one constant channel bring what those that go would: W'[:, r] = W[:, r] + sum_c W[:, c] x_c / x_r."""
    reader = merge.reader
    gone = torch.from_numpy(np.flatnonzero(lost))
    name, axis = reader.use.tensor, reader.use.axis
    weight = tensor_of(module, name).detach().clone().movedim(axis, 0)
    share = torch.from_numpy(reader.constants)[gone] / reader.constants[merge.into]
    weight[merge.into] += torch.tensordot(share, weight[gone], dims=1)
    replace_tensor(module, name, weight.movedim(0, axis).contiguous())


def _slice_tensors(module: GraphModule, plan: Plan) -> None:
    grouped = {item.weight: item for item in groupings(plan.trace)}
    for item in grouped.values():
        _slice_groups(module, plan, item)
    done: set[tuple[str, int]] = set()
    for use in plan.trace.uses:
        kept = plan.stay(use)
        if (use.tensor, use.axis) in done or use.tensor in grouped or len(kept) == len(use.slots):
            continue
        done.add((use.tensor, use.axis))
        tensor = tensor_of(module, use.tensor).detach()
        replace_tensor(module, use.tensor, tensor.index_select(use.axis, torch.from_numpy(kept)))


def _slice_groups(module: GraphModule, plan: Plan, item: Grouping) -> None:
    """Keep the same number of rows and columns in every group that stays; which ones may differ."""
    weight = tensor_of(module, item.weight).detach()
    parts = weight.reshape(len(item.inputs), -1, *weight.shape[1:])  # (groups, C_out / groups, C_in / groups, k...)
    kept = [(plan.kept(rows), plan.kept(columns)) for rows, columns in zip(item.outputs, item.inputs, strict=True)]
    staying = [group for group, (rows, columns) in enumerate(kept) if len(rows) + len(columns) > 0]
    slices = [parts[group][torch.from_numpy(kept[group][0])][:, torch.from_numpy(kept[group][1])] for group in staying]
    replace_tensor(module, item.weight, torch.cat(slices).contiguous())
    for node in item.nodes:
        set_argument(node, "groups", len(staying))


def _correct_sizes(plan: Plan, node: Node) -> None:
    """Correct arguments that hold a channel count: groups, shapes, slice bounds, split sizes."""
    correction = _CORRECTIONS.get(operator(node))
    if correction is not None:
        correction(plan, node)


def _groups(plan: Plan, node: Node) -> None:
    """A depthwise layer has as many groups as input channels; other groupings see `_slice_groups`."""
    channels, groups = plan.trace.channels(argument(node, "input")), argument(node, "groups")
    if channels is not None and groups > 1 and groups == len(channels.slots):
        set_argument(node, "groups", len(plan.kept(channels.slots)))


def _shape(name: str) -> Callable[[Plan, Node], None]:
    def correct(plan: Plan, node: Node) -> None:
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
    if source is None or result is None or result.index is None or _removes_nothing(plan, source):
        return
    if argument(node, "dim") % len(node.args[0].meta["val"].shape) != source.axis:  # type: ignore[union-attr]
        return
    below = np.searchsorted(plan.kept(source.slots), [result.index[0], result.index[-1] + 1])
    set_argument(node, "start", int(below[0]))
    set_argument(node, "end", int(below[1]))


def _split(plan: Plan, node: Node) -> None:
    """Split into what remains of each part; equal sizes become a list of sizes."""
    source, parts = plan.trace.channels(node.args[0]), plan.trace.flows[node]
    if source is None or not isinstance(parts, tuple) or _removes_nothing(plan, source):
        return
    if argument(node, "dim") % len(node.args[0].meta["val"].shape) != source.axis:  # type: ignore[union-attr]
        return
    sizes = [len(plan.kept(part.slots)) for part in parts if part is not None]
    axis = argument(node, "dim")
    node.target = aten.split_with_sizes.default
    node.args, node.kwargs = (node.args[0], sizes, axis), {}


def _gather(plan: Plan, node: Node) -> None:
    """Replace a chain of views that shuffles channels, whose factors may no longer be whole numbers, by one gather."""
    channels = plan.trace.channels(node)
    if channels is None or channels.origin is None or channels.order is None or _removes_nothing(plan, channels):
        return
    source = plan.trace.channels(channels.origin)
    if source is not None:
        places = np.searchsorted(plan.kept(source.slots), channels.order[plan.kept(channels.slots)])
        with node.graph.inserting_before(node):
            gathered = gather(plan.trace.module, channels.origin, channels.axis, places, node.name)
        gathered.meta = dict(node.meta)
        node.replace_all_uses_with(gathered)


def _removes_nothing(plan: Plan, channels: Channels) -> bool:
    return len(plan.kept(channels.slots)) == len(channels.slots)


_CORRECTIONS: dict[Any, Callable[[Plan, Node], None]] = {
    **dict.fromkeys(CONVOLUTIONS, _groups),
    aten.view: _shape("size"),
    aten._unsafe_view: _shape("size"),
    aten.reshape: _shape("shape"),
    aten.expand: _shape("size"),
    aten.slice: _slice,
    aten.split: _split,
    aten.split_with_sizes: _split,
}
