"""Carries a plan out: slices stored tensors, folds constants into biases, corrects sizes in the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import (
    argument,
    aten,
    replace_tensor,
    set_argument,
    stored,
    tensor_of,
)
from pdp_export.removal.copies import insert_copies
from pdp_export.removal.folding import drop_dead_code, new_bias_name, set_bias
from pdp_export.removal.gathers import gather
from pdp_export.removal.grouping import Grouping, groupings
from pdp_export.removal.planning import Plan
from pdp_export.removal.readers import Mask, Merge, Reader, lines
from pdp_export.removal.size_arguments import correct_sizes


def apply_plan(plan: Plan) -> None:
    """Rewrite ``plan.trace.module`` in place."""
    module = plan.trace.module
    for reader in plan.readers:
        _fold_constants(module, plan, reader)
    for merge in plan.merges:
        narrow = plan.narrowed.get(merge.reader.use.node)
        if narrow is None or narrow.keeper is None:
            _merge_constants(module, merge, _lost(plan, merge.reader) & merge.columns)
    for reader in plan.readers:
        narrow = plan.narrowed.get(reader.use.node)
        if narrow is not None and narrow.keeper is not None:
            constant = np.isfinite(reader.constants) & (reader.constants != 0)
            _merge_constants(module, Merge(reader, narrow.keeper, constant), _lost(plan, reader) & constant)
    _slice_tensors(module, plan)
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    for node in nodes:
        correct_sizes(plan, node)
    replaced: dict[Node, Node] = {}
    for node in nodes:
        _replace_shuffle(plan, node, replaced)
    insert_copies(plan)
    for node in nodes:
        if node.target is aten.view.default:  # what a copy makes may lie otherwise in memory
            node.target = aten.reshape.default
    drop_dead_code(module)


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
        new = new_bias_name(module, name)
        replace_tensor(module, new, shift)
        set_bias(module, node, new, shift)


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


def _replace_shuffle(plan: Plan, node: Node, replaced: dict[Node, Node]) -> None:
    """Replace a chain of views that shuffles channels, whose factors may no longer be whole numbers, by one gather."""
    channels = plan.trace.channels(node)
    if channels is None or channels.origin is None or channels.order is None:
        return
    source = plan.trace.channels(channels.origin)
    if source is None or (plan.keeps_all(channels) and plan.keeps_all(source)):
        return
    places = np.searchsorted(plan.kept(source.slots), channels.order[plan.kept(channels.slots)])
    origin = replaced.get(channels.origin, channels.origin)
    with node.graph.inserting_before(node):
        result = gather(plan.trace.module, origin, channels.axis, places, node.name)
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    replaced[node] = result
