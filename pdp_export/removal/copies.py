"""Gathers in the graph: in front of a layer that reads fewer channels, and behind one that makes fewer."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import argument, aten, operator, shape, tensor_of
from pdp_export.removal.concatenations import absorbed
from pdp_export.removal.gathers import first_user, gather, stored_node
from pdp_export.removal.hoisting import hoisted
from pdp_export.removal.narrow_options import Narrowing
from pdp_export.removal.own_results import give_own_results
from pdp_export.removal.planning import Plan


def insert_copies(plan: Plan) -> None:
    """Connect every narrowed layer with the tensors around it; layers that select the same share one gather."""
    selected: dict[tuple[Node, bytes], Node] = {}
    supplied = {reader for sharing in plan.sharings for reader in sharing.readers}
    for node, narrow in plan.narrowed.items():
        if node not in supplied:
            _select(plan, node, narrow, selected)
        _expand(plan, node, narrow)
    for sharing in plan.sharings:
        give_own_results(plan.trace.module, sharing)
    _raise(plan, list(selected.values()))


def _raise(plan: Plan, selects: list[Node]) -> None:
    """Move each select as far up as it gets: in front of element-wise work, and of concatenations."""
    while selects:
        select = selects.pop()
        moved = hoisted(plan.trace.module, select)
        selects += [moved] if moved is not None else absorbed(plan, select) or ()


def _select(plan: Plan, node: Node, narrow: Narrowing, selected: dict[tuple[Node, bytes], Node]) -> None:
    kept, columns = narrow.all_columns, narrow.columns
    if len(columns) == len(kept):
        return
    source = argument(node, "input")
    key = (source, columns.tobytes())
    if key not in selected:
        with node.graph.inserting_before(first_user(source)):
            places = np.searchsorted(kept, columns)
            selected[key] = gather(plan.trace.module, source, _axis(node, source), places, f"{node.name}_input")
    node.replace_input_with(source, selected[key])


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
