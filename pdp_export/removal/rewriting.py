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
from pdp_export.removal.folding import bias_name, drop_unused_tensors, set_bias
from pdp_export.removal.planning import Plan
from pdp_export.removal.readers import Merge, Reader


def apply_plan(plan: Plan) -> None:
    """Rewrite ``plan.trace.module`` in place."""
    module = plan.trace.module
    for reader in plan.readers:
        _fold_constants(module, plan, reader)
    for merge in plan.merges:
        _merge_constants(module, plan, merge)
    _slice_tensors(module, plan)
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            _correct_sizes(plan, node)
    module.graph.eliminate_dead_code()
    drop_unused_tensors(module)
    module.recompile()


def _fold_constants(module: GraphModule, plan: Plan, reader: Reader) -> None:
    """Move what removed constant channels contribute into the reader's bias: b' = b + sum_c (sum_k W[:, c, k]) x_c."""
    gone = plan.removed[reader.columns] & np.isfinite(reader.constants) & (reader.constants != 0)
    gone &= reader.touched.any(0)
    if not gone.any() or not reader.foldable:
        return
    node, name = reader.use.node, reader.use.tensor
    weight = tensor_of(module, name).detach()
    lines = weight.reshape(*weight.shape[:2], -1).sum(2)  # (C_out, C_in)
    shift = lines[:, torch.from_numpy(gone)] @ torch.from_numpy(reader.constants[gone])
    old = stored(module, argument(node, "bias"))
    if old is not None:
        replace_tensor(module, str(argument(node, "bias").target), old.detach() + shift)
    else:  # a new bias, which no use in the trace will slice
        shift = shift[torch.from_numpy(plan.kept(reader.rows))]
        replace_tensor(module, bias_name(name), shift)
        set_bias(module, node, bias_name(name), shift)


def _merge_constants(module: GraphModule, plan: Plan, merge: Merge) -> None:
    """Let one constant channel bring what those that go would: W'[:, r] = W[:, r] + sum_c W[:, c] x_c / x_r."""
    reader = merge.reader
    gone = torch.from_numpy(np.flatnonzero(plan.removed[reader.columns] & merge.columns))
    name, axis = reader.use.tensor, reader.use.axis
    weight = tensor_of(module, name).detach().clone().movedim(axis, 0)
    share = torch.from_numpy(reader.constants)[gone] / reader.constants[merge.into]
    weight[merge.into] += torch.tensordot(share, weight[gone], dims=1)
    replace_tensor(module, name, weight.movedim(0, axis).contiguous())


def _slice_tensors(module: GraphModule, plan: Plan) -> None:
    done: set[tuple[str, int]] = set()
    for use in plan.trace.uses:
        kept = plan.kept(use.slots)
        if (use.tensor, use.axis) in done or len(kept) == len(use.slots):
            continue
        done.add((use.tensor, use.axis))
        tensor = tensor_of(module, use.tensor).detach()
        replace_tensor(module, use.tensor, tensor.index_select(use.axis, torch.from_numpy(kept)))


def _correct_sizes(plan: Plan, node: Node) -> None:
    """Correct arguments that hold a channel count: groups, shapes, slice bounds, split sizes."""
    correction = _CORRECTIONS.get(operator(node))
    if correction is not None:
        correction(plan, node)


def _groups(plan: Plan, node: Node) -> None:
    """A depthwise layer has as many groups as input channels; other groupings are frozen."""
    channels, groups = plan.trace.channels(argument(node, "input")), argument(node, "groups")
    if channels is not None and groups == len(channels.slots):
        set_argument(node, "groups", len(plan.kept(channels.slots)))


def _shape(name: str) -> Callable[[Plan, Node], None]:
    def correct(plan: Plan, node: Node) -> None:
        channels = plan.trace.channels(node)
        if channels is None or len(plan.kept(channels.slots)) == len(channels.slots):
            return
        sizes = list(argument(node, name))
        if sizes[channels.axis] != -1:
            sizes[channels.axis] = len(plan.kept(channels.slots))
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
