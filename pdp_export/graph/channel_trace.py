"""Follows channels through a captured program, node by node; the table says which rule an operator has."""

from __future__ import annotations

from operator import getitem

from torch.fx import GraphModule, Node

from pdp_export.graph import operators as families
from pdp_export.graph.nodes import (
    BATCH_NORM,
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    aten,
    is_sized,
    is_tensor,
    operator,
)
from pdp_export.graph.rules_elementwise import elementwise
from pdp_export.graph.rules_heads import attention, each_element, product, same_split, softmax
from pdp_export.graph.rules_layers import (
    batch_norm,
    convolution,
    embedding,
    group_norm,
    linear,
    transposed_convolution,
)
from pdp_export.graph.rules_movement import movement
from pdp_export.graph.rules_shape import (
    concatenation,
    padding,
    pixel_shuffle,
    pixel_unshuffle,
    reduction,
    same_channels,
    sizes,
    spatial,
)
from pdp_export.graph.slots import Ties
from pdp_export.graph.tracing import Flow, Rule, Trace, without_rule

RULES: dict[object, Rule] = {
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys(TRANSPOSED_CONVOLUTIONS, transposed_convolution),
    aten.linear: linear,
    aten.embedding: embedding,
    BATCH_NORM: batch_norm,
    aten.group_norm: group_norm,
    **dict.fromkeys(families.IDENTITY, same_channels),
    **dict.fromkeys(families.UNARY, same_channels),
    **dict.fromkeys(families.BINARY, elementwise),
    **dict.fromkeys(families.SPATIAL, spatial),
    **dict.fromkeys(families.PADDING, padding),
    **dict.fromkeys(families.REDUCTIONS, reduction),
    **dict.fromkeys(families.MOVEMENT, movement),
    **dict.fromkeys(families.SIZES, sizes),
    aten.pixel_shuffle: pixel_shuffle,
    aten.pixel_unshuffle: pixel_unshuffle,
    aten.cat: concatenation,
    **dict.fromkeys(families.PRODUCTS, product),
    **dict.fromkeys(families.SOFTMAXES, softmax),
    **dict.fromkeys({aten.masked_fill, aten.where}, elementwise),
}
"""Operator -> rule. An operator that is not here freezes the channels that reach it."""

SPLIT_RULES: dict[object, Rule] = {
    **dict.fromkeys(families.IDENTITY, same_split),
    **dict.fromkeys(families.UNARY | families.BINARY, each_element),
    **dict.fromkeys(families.MOVEMENT, movement),
    **dict.fromkeys(families.PRODUCTS, product),
    aten.scaled_dot_product_attention: attention,
}
"""The same for tensors with channels along several axes."""


def trace(module: GraphModule, ties: Ties = "stream") -> Trace:
    """Follow every channel of a captured program.

    Args:
        module: ``program.module()``: placeholders and ``get_attr`` nodes, in the captured dialect.
        ties: Whether a residual join ties its branches.

    Returns:
        The trace. Channels that reach an output, or an operator without a rule, are frozen with the reason.
    """
    result = Trace(module, ties)
    for node in module.graph.nodes:
        if node.op == "call_function":
            result.flows[node] = _flow(result, node)
        elif node.op == "output":
            result.freeze(node.all_input_nodes, "it reaches an output of the model")
    result.freeze_unaccounted()
    return result


def _flow(result: Trace, node: Node) -> Flow:
    if node.target is getitem:
        source, position = node.args
        flow = result.flows.get(source) if isinstance(source, Node) else None
        return flow[position] if isinstance(flow, tuple) and isinstance(position, int) else None
    if not all(is_sized(item) for item in (node, *node.all_input_nodes) if is_tensor(item)):
        return without_rule(result, node, "has a size that is known only when it runs")
    split = any(result.split(source) is not None for source in node.all_input_nodes)
    rule = (SPLIT_RULES if split else RULES).get(operator(node), without_rule)
    return rule(result, node)
