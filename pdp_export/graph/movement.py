"""Runs an operator that only rearranges elements on other values than its own: numbers, constants, needs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from pdp_export.graph.nodes import aten, hint, operator, value

_VIEWS = {aten.view, aten._unsafe_view}


def rerun(node: Node, source: Node, tensor: Tensor) -> Any:
    """Return what `node` makes of `tensor` in the place of its input `source`; dynamic sizes as traced."""

    def concrete(item: Any) -> Any:
        if item is source:
            return tensor
        return hint(value(item)) if isinstance(item, Node) else item

    # What is spread has no memory of its own, so that most views of it need a copy.
    function: Any = aten.reshape if operator(node) in _VIEWS else node.target
    return function(*map_aggregate(node.args, concrete), **map_aggregate(node.kwargs, concrete))
