"""Transfer rules for operators that compute each element from the elements at the same place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from pdp_export.graph.facts import grids
from pdp_export.graph.facts.facts import Facts, Grid, Transfer
from pdp_export.graph.nodes import aten, is_tensor, operator, shape, value

_ABSORBING = {aten.mul}
"""Zero times anything finite is zero."""


def constants(facts: Facts, node: Node) -> Tensor | None:
    """Run the operator itself on the grids; unknown where any operand is, unless a known zero absorbs it."""
    if not value(node).is_floating_point() or not all(is_tensor(source) for source in node.all_input_nodes):
        return None
    operands = {source: facts.constant(source) for source in node.all_input_nodes}

    def concrete(item: Any) -> Any:
        return grids.or_zero(operands[item]) if isinstance(item, Node) else item

    function = cast(Callable[..., Tensor], node.target)
    result = function(*map_aggregate(node.args, concrete), **map_aggregate(node.kwargs, concrete)).double()
    blank = zero = infinite = torch.zeros((), dtype=torch.bool)
    for grid in operands.values():
        blank, zero, infinite = blank | grid.isnan(), zero | (grid == 0), infinite | grid.isinf()
    result = torch.where(blank, torch.nan, result.nan_to_num(torch.inf, torch.inf, -torch.inf))
    if operator(node) in _ABSORBING:
        result = torch.where(zero, 0.0, result)
    return torch.where(infinite, torch.inf, result)


def needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    """Pass the need of an element to the elements that it is computed from; a factor of zero needs no other."""
    for source in node.all_input_nodes:
        if is_tensor(source):
            wanted = _but_for_zeros(facts, node, source, cast(Tensor, need))
            yield source, grids.fitted(wanted, shape(source))


def _but_for_zeros(facts: Facts, node: Node, source: Node, need: Tensor) -> Tensor:
    if operator(node) in _ABSORBING:
        for other in node.all_input_nodes:
            if other is not source and is_tensor(other):
                need = need & ((facts.constant(other) != 0) | facts.constant(source).isinf())
    return need


def no_constants(facts: Facts, node: Node) -> None:
    """Know nothing of the result."""
    del facts, node


ELEMENTWISE = Transfer(constants, needs)
OPAQUE = Transfer(no_constants, needs)
"""Comparisons and choices: each element on its own, but nothing is known of the result."""
