"""The two passes over a program: constants forward, needs backward."""

from __future__ import annotations

from operator import getitem

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.facts import grids
from pdp_export.graph.facts.facts import Facts, Grid, Lookup, Transfer, everything
from pdp_export.graph.facts.table import RULES
from pdp_export.graph.nodes import is_sized, is_tensor, operator, tensor_of


def channel_facts(module: GraphModule, lookup: Lookup | None = None) -> Facts:
    """Return the facts of ``program.module()``.

    Args:
        module: The program, edited or not; sizes count as traced.
        lookup: Which stored tensors to assume; by default those of the module.
    """
    facts = known_constants(module, lookup)
    for node in reversed(module.graph.nodes):
        _pass_back(facts, node)
    return facts


def known_constants(module: GraphModule, lookup: Lookup | None = None) -> Facts:
    """Return the facts without the needs: the forward pass alone."""
    facts = Facts(module, lookup or (lambda name: tensor_of(module, name)))
    for node in module.graph.nodes:
        if (found := _constants(facts, node)) is not None:
            facts.constants[node] = found
    return facts


def _constants(facts: Facts, node: Node) -> Grid | None:
    if node.op == "get_attr" and is_tensor(node):
        tensor = facts.lookup(str(node.target)).detach()
        stored = tensor.double().nan_to_num(torch.inf, torch.inf, -torch.inf)
        return grids.compressed(stored) if tensor.is_floating_point() else None
    if node.op != "call_function":
        return None
    if node.target is getitem:
        parts, position = facts.constants.get(node.all_input_nodes[0]), node.args[1]
        return parts[position] if isinstance(parts, list) and isinstance(position, int) else None
    rule = _rule(node)
    found = None if rule is None else rule.forward(facts, node)
    if isinstance(found, list):
        pairs = zip(found, node.meta["val"], strict=True)
        return [None if part is None else _tidy(part, value) for part, value in pairs]
    return None if found is None else _tidy(found, node.meta["val"])


def _tidy(grid: Tensor, value: Tensor) -> Tensor:
    return grids.compressed(grids.settled(grid.double(), value))


def _rule(node: Node) -> Transfer | None:
    """Return the rule of an operator; none where a size is known only when the program runs."""
    tensors = [item for item in (node, *node.all_input_nodes) if is_tensor(item)]
    return RULES.get(operator(node)) if all(is_sized(item) for item in tensors) else None


def _pass_back(facts: Facts, node: Node) -> None:
    """Tell the inputs of a node what is needed of them; what is constant needs nothing."""
    need = facts.needs.get(node)
    if node.op == "output":
        need = torch.tensor(True)
    elif node.op != "call_function" or need is None:
        return
    elif isinstance(need, Tensor):
        need = grids.compressed(need & grids.varies(facts.constant(node)))
        if not need.any():
            return
    if node.target is getitem and isinstance(need, Tensor):
        facts.add_part_need(node.all_input_nodes[0], int(str(node.args[1])), need)
        return
    rule = None if node.op == "output" else _rule(node)
    for source, wanted in everything(node) if rule is None else rule.backward(facts, node, need):
        facts.add_need(source, grids.settled(wanted, source.meta["val"]))
