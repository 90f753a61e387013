"""Gathers in the graph: in front of a layer that reads fewer channels, and behind one that makes fewer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import argument, aten, operator, shape, tensor_of
from pdp_export.graph.slots import Ids
from pdp_export.removal.hoisting import hoist_selects
from pdp_export.removal.narrow_options import Narrowing
from pdp_export.removal.planning import Plan


def insert_copies(plan: Plan) -> None:
    """Connect every narrowed layer with the tensors around it; layers that select the same share one gather."""
    selected: dict[tuple[Node, bytes], Node] = {}
    for node, narrow in plan.narrowed.items():
        _select(plan, node, narrow, selected)
        _expand(plan, node, narrow)
    hoist_selects(plan.trace.module, list(selected.values()))


def gather(module: GraphModule, source: Node, axis: int, places: Ids, name: str) -> Node:
    """Add ``source.index_select(axis, places)`` at the graph's point of insertion."""
    order = stored_node(module, torch.from_numpy(places), f"{name}_order")
    result: Node = module.graph.call_function(aten.index_select.default, (source, axis, order))
    return result


def stored_node(module: GraphModule, tensor: Tensor, name: str) -> Node:
    """Keep a tensor in the module under a free name, and add a node that reads it."""
    free, number = name, 0
    while hasattr(module, free):
        number += 1
        free = f"{name}_{number}"
    module.register_buffer(free, tensor)
    node = module.graph.get_attr(free)
    node.meta["val"] = tensor
    return node


def _select(plan: Plan, node: Node, narrow: Narrowing, selected: dict[tuple[Node, bytes], Node]) -> None:
    kept, columns = narrow.all_columns, narrow.columns
    if len(columns) == len(kept):
        return
    source = argument(node, "input")
    key = (source, columns.tobytes())
    if key not in selected:
        with node.graph.inserting_before(_first_user(source)):
            places = np.searchsorted(kept, columns)
            selected[key] = gather(plan.trace.module, source, _axis(node, source), places, f"{node.name}_input")
    node.replace_input_with(source, selected[key])


def _first_user(source: Node) -> Node:
    found: Node = next(node for node in source.graph.nodes if node in source.users)
    return found


def _expand(plan: Plan, node: Node, narrow: Narrowing) -> None:
    """Put the rows in their places among those that the layer does not make: zeros, then the constants."""
    kept = narrow.all_rows
    if len(narrow.rows) == len(kept):
        return
    module, users = plan.trace.module, list(node.users)
    axis, rank = _axis(node, node), len(shape(node))
    found = np.isin(kept, narrow.rows)
    places = np.where(found, np.searchsorted(narrow.rows, kept), len(narrow.rows))
    fills = torch.from_numpy(np.where(found, 0.0, narrow.fills[kept]))
    with node.graph.inserting_before(node.next):
        pads = [0, 0] * (rank - 1 - axis) + [0, 1]
        padded = node.graph.call_function(aten.constant_pad_nd.default, (node, pads, 0.0))
        result = gather(module, padded, axis, places, f"{node.name}_output")
        if bool(fills.any()):
            constants = stored_node(module, fills.reshape([-1] + [1] * (rank - 1 - axis)), f"{node.name}_constants")
            result = node.graph.call_function(aten.add.Tensor, (result, constants))
    result.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, result)


def _axis(layer: Node, tensor: Node) -> int:
    """Return the channel axis of what a layer reads or makes."""
    if operator(layer) is aten.linear:
        return len(shape(tensor)) - 1
    return 1 if len(shape(tensor)) == tensor_of(_module(layer), str(argument(layer, "weight").target)).dim() else 0


def _module(node: Node) -> GraphModule:
    owner = node.graph.owning_module
    if owner is None:
        raise TypeError(f"{node} belongs to no module")
    return owner
