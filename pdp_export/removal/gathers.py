"""Nodes that a plan adds to a graph: gathers of channels, and tensors that are kept for them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import aten, free_name
from pdp_export.graph.slots import Ids


def gather(module: GraphModule, source: Node, axis: int, places: Ids, name: str) -> Node:
    """Add ``source.index_select(axis, places)`` at the graph's point of insertion."""
    order = stored_node(module, torch.from_numpy(places), f"{name}_order")
    result: Node = module.graph.call_function(aten.index_select.default, (source, axis, order))
    return result


def stored_node(module: GraphModule, tensor: Tensor, name: str) -> Node:
    """Keep a tensor in the module under a free name, and add a node that reads it."""
    free = free_name(module, name)
    module.register_buffer(free, tensor)
    node = module.graph.get_attr(free)
    node.meta["val"] = tensor
    return node


def first_user(source: Node) -> Node:
    """Return the first node of the graph that reads `source`."""
    found: Node = next(node for node in source.graph.nodes if node in source.users)
    return found
