"""Gives the readers of a layer's result copies of the layer, or of classes of its channels, in the graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import (
    TRANSPOSED_CONVOLUTIONS,
    argument,
    aten,
    free_name,
    operator,
    replace_tensor,
    set_argument,
    tensor_of,
)
from pdp_export.graph.slots import Ids
from pdp_export.removal.gathers import first_user
from pdp_export.removal.hoisting import NARROWED, channel_axis, stored_per_channel
from pdp_export.removal.sharing import Sharing


def give_own_results(module: GraphModule, sharing: Sharing) -> None:
    """Connect the readers in place; what nothing reads any more is left for the end."""
    source = sharing.source
    made: dict[bytes, Node] = {}

    def result(places: Ids) -> Node:
        if places.tobytes() not in made:
            made[places.tobytes()] = _again(module, sharing, places)
        return made[places.tobytes()]

    for reader, wanted in sharing.wanted.items():
        if sharing.classes:
            parts = [part for part in sharing.classes if np.isin(part, wanted).all()]
            _sum_over(module, reader, [(result(part), np.searchsorted(wanted, part)) for part in parts])
        else:
            reader.replace_input_with(source, result(wanted))


def _again(module: GraphModule, sharing: Sharing, places: Ids) -> Node:
    """Copy a layer and the work behind it, with these of its rows."""
    source, index = sharing.source, torch.from_numpy(places)
    with source.graph.inserting_before(first_user(source)):
        layer = _copied(sharing.producer)
        axis = 1 if operator(layer) in TRANSPOSED_CONVOLUTIONS else 0
        _own_tensor(module, layer, argument(layer, "weight"), axis, index)
        if argument(layer, "bias") is not None:
            _own_tensor(module, layer, argument(layer, "bias"), 0, index)
        last = layer
        for stage in sharing.stages:
            last = _stage_again(module, stage, last, sharing.axis, index)
    return last


def _stage_again(module: GraphModule, stage: Node, source: Node, channels: int, index: Tensor) -> Node:
    """Copy an operation, with the entries of its stored tensors that belong to the channels it works on."""
    names = stored_per_channel(module, stage, channels) or ()
    copied = _copied(stage)
    copied.args = (source, *copied.args[1:])
    for name in names:
        read = next(item for item in copied.args if isinstance(item, Node) and str(item.target) == name)
        _own_tensor(module, copied, read, channel_axis(tensor_of(module, name).dim(), stage, channels), index)
    return copied


def _sum_over(module: GraphModule, reader: Node, parts: list[tuple[Node, Ids]]) -> None:
    """Let a layer read several tensors, each with its columns of the weight, and add up the results."""
    axis = 0 if operator(reader) in TRANSPOSED_CONVOLUTIONS else 1
    terms = []
    with reader.graph.inserting_before(reader.next):
        for number, (part, columns) in enumerate(parts):
            term = _copied(reader)
            term.args = (part, *term.args[1:])
            index = torch.from_numpy(columns)
            _own_tensor(module, term, argument(term, "weight"), axis, index)
            if number and argument(term, "bias") is not None:
                set_argument(term, "bias", None)
            terms.append(term)
        total = terms[0]
        for term in terms[1:]:
            total = reader.graph.call_function(aten.add.Tensor, (total, term))
    reader.replace_all_uses_with(total)


def _copied(node: Node) -> Node:
    """Copy a node to the graph's point of insertion."""
    copied = node.graph.node_copy(node)
    copied.meta[NARROWED] = True
    return copied


def _own_tensor(module: GraphModule, node: Node, read: Node, axis: int, index: Tensor) -> None:
    """Let a node read a stored tensor of its own in the place of `read`: these of its entries."""
    name = free_name(module, f"{read.target}_0")
    replace_tensor(module, name, tensor_of(module, str(read.target)).detach().index_select(axis, index))
    with node.graph.inserting_before(node):
        own = node.graph.get_attr(name)
    own.meta["val"] = tensor_of(module, name)
    node.replace_input_with(read, own)
