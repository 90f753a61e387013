"""Branches that are one constant for every input: the constant takes their place."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from pdp_export.graph.facts import Facts, grids
from pdp_export.graph.nodes import aten, is_tensor, operator, value
from pdp_export.graph.operators import BINARY
from pdp_export.removal.folding import drop_dead_code
from pdp_export.removal.gathers import stored_node

_NEUTRAL = {aten.add, aten.sub}


def replace_constant_operands(module: GraphModule, facts: Facts) -> bool:
    """Give every element-wise operation the constant itself where an operand is one; tell whether any was.

    Where nothing needs what the operand is, it may be anything: zero.

    Adding or subtracting zero vanishes altogether. What computed the constant is then read by nobody.
    """
    changed = False
    for node in list(module.graph.nodes):
        if node.op == "call_function" and operator(node) in BINARY:
            changed |= _replace(module, facts, node)
    if changed:
        drop_dead_code(module)
    return changed


def _replace(module: GraphModule, facts: Facts, node: Node) -> bool:
    operands = [item for item in node.args if isinstance(item, Node)]
    if len(operands) != 2 or not all(is_tensor(item) for item in operands):  # noqa: PLR2004
        return False
    for operand, other in (operands, operands[::-1]):
        varies = grids.varies(facts.constant(operand))
        whole = value(other).shape == value(node).shape and operand is not other
        if operand.op != "call_function" or not whole or bool((varies & facts.need(operand)).any()):
            continue
        constant = torch.where(varies, 0.0, facts.constant(operand))
        if operator(node) in _NEUTRAL and operand is node.args[1] and not constant.any():
            node.replace_all_uses_with(other)
        else:
            with module.graph.inserting_before(node):
                stored = stored_node(module, constant, f"{operand.name}_constant")
            node.replace_input_with(operand, stored)
        return True
    return False
