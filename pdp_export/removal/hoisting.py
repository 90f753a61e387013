"""Moves a gather in front of the element-wise work before it, so that this is done for the selected channels only.

A select sits right in front of the layer that wants it. Where a BatchNorm, an activation or a product with stored
numbers stands there and nothing else reads it, as in pre-activation and densely connected networks, it can work on
the selected channels as well: f(x)[c] = f(x[c]) element by element.
"""

from __future__ import annotations

import operator as python_operator
from collections.abc import Iterator
from typing import cast

from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import BATCH_NORM, argument, aten, is_tensor, operator, replace_tensor, shape, tensor_of
from pdp_export.graph.operators import BINARY, IDENTITY, UNARY
from pdp_export.removal.costs import Stage

NARROWED = "narrowed"
"""Set in the meta of a node whose result has fewer channels than the plan says."""


def crossed(module: GraphModule, layer: Node, axis: int) -> tuple[Stage, ...]:
    """Return the element-wise work in front of a layer that a select would move ahead of, first things first."""
    return tuple("norm" if stored else "unary" for _, stored in reversed(list(_way_up(module, layer, axis))))


def end_of_way(module: GraphModule, layer: Node, axis: int) -> Node:
    """Return the node behind which a select in front of a layer would end."""
    end = argument(layer, "input")
    for first, _ in _way_up(module, layer, axis):
        end = first.args[0]
    return cast(Node, end)


def _way_up(module: GraphModule, layer: Node, axis: int) -> Iterator[tuple[Node, list[str]]]:
    reader, last = layer, argument(layer, "input")
    while (crossing := _crossing(module, reader, last, axis)) is not None:
        yield crossing
        reader = crossing[0]
        last = cast(Node, reader.args[0])


def hoisted(module: GraphModule, gather: Node) -> Node | None:
    """Exchange a gather with the operation whose result it reads; None where it must stay."""
    last, axis, indices = argument(gather, "self"), argument(gather, "dim"), argument(gather, "index")
    crossing = _crossing(module, gather, last, axis)
    if crossing is None:
        return None
    first, stored = crossing
    with module.graph.inserting_before(first):
        order = module.graph.node_copy(indices)
        moved = module.graph.call_function(aten.index_select.default, (first.args[0], axis, order))
    first.args = (moved, *first.args[1:])
    for name in stored:
        tensor = tensor_of(module, name)
        places = tensor_of(module, str(order.target))
        replace_tensor(module, name, tensor.detach().index_select(channel_axis(tensor.dim(), last, axis), places))
    for node in {first, last}:
        node.meta[NARROWED] = True
    gather.replace_all_uses_with(last)
    module.graph.erase_node(gather)
    return moved


def _crossing(module: GraphModule, reader: Node, last: Node, axis: int) -> tuple[Node, list[str]] | None:
    """Return the operation whose result `last` is, with its stored tensors that have an entry for each channel.

    None where a gather in front of `reader` cannot move ahead of it.
    """
    if list(last.users) != [reader] or last.op != "call_function":
        return None
    first = last
    if last.target is python_operator.getitem and last.args[1] == 0 and isinstance(last.args[0], Node):
        first = last.args[0]
        if operator(first) is not BATCH_NORM or list(first.users) != [last]:
            return None
    stored = stored_per_channel(module, first, axis)
    return None if stored is None or not same_shape(first.args[0], last) else (first, stored)


def same_shape(source: object, result: Node) -> bool:
    """Tell whether an operation keeps its first operand's shape; what broadcasts has no such channels before it.

    What removal itself inserted has no traced shape, and ends the way up.
    """
    known = is_tensor(source) and is_tensor(result)
    return known and isinstance(source, Node) and shape(source) == shape(result)


def stored_per_channel(module: GraphModule, node: Node, axis: int) -> list[str] | None:
    """Return the stored tensors with an entry for each channel, of an operation that a gather may cross; else None."""
    kind, others = operator(node), [item for item in node.args[1:] if isinstance(item, Node)]
    if kind not in UNARY | IDENTITY | BINARY | {BATCH_NORM} or node.kwargs:
        return None
    if kind is BATCH_NORM and axis != 1:
        return None
    found = []
    for other in others:
        if other.op != "get_attr" or list(other.users) != [node]:
            return None
        tensor = tensor_of(module, str(other.target))
        place = 0 if kind is BATCH_NORM else channel_axis(tensor.dim(), node, axis)
        if place >= 0 and tensor.shape[place] > 1:
            found.append(str(other.target))
    return found


def channel_axis(dimensions: int, node: Node, axis: int) -> int:
    """Return the axis of a broadcast operand that is aligned with `axis` of the result; negative: it has none."""
    if node.target is python_operator.getitem:
        return 0
    return dimensions - (len(shape(node)) - axis)
