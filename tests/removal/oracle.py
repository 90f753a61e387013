"""Brute force: which filters a network could do without, found by changing what they emit."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import LAYERS, argument, aten, operator
from tests.graph.facts.oracle import Injected, outputs

CASES = 3


def removable_filters(module: GraphModule, example: Tensor) -> dict[str, int]:
    """Return, by weight, how many filters emit one constant or nothing that changes an output.

    A constant that is not zero counts too: it can be folded, or merged with others.
    """
    cases = [example] + [torch.randn_like(example) * 3**i for i in range(CASES - 1)]
    plain = [outputs(module, (case,)) for case in cases]
    found: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and operator(node) in LAYERS:
            values = [_value(module, node, case) for case in cases]
            axis = 1 if operator(node) is not aten.linear else values[0].dim() - 1
            free = sum(
                _is_constant(values, axis, channel) or _is_silent(module, node, axis, channel, cases, plain)
                for channel in range(values[0].shape[axis])
            )
            name = str(argument(node, "weight").target)
            found[name] = min(free, found.get(name, free))
    return found


def _value(module: GraphModule, node: Node, case: Tensor) -> Tensor:
    run = Injected(module)
    with torch.no_grad():
        run.run(case)
    value: Tensor = run.values[node]
    return value


def _is_constant(values: Iterable[Tensor], axis: int, channel: int) -> bool:
    entries = torch.cat([value.select(axis, channel).flatten() for value in values])
    return bool((entries - entries[0]).abs().max() <= 1e-12 * max(1.0, entries[0].abs().item()))


def _is_silent(
    module: GraphModule, node: Node, axis: int, channel: int, cases: list[Tensor], plain: list[list[Tensor]]
) -> bool:
    for case, before in zip(cases, plain, strict=True):
        noise = torch.zeros(_value(module, node, case).shape, dtype=torch.float64)
        noise.select(axis, channel).normal_()
        after = outputs(module, (case,), node, noise)
        if any((old - new).abs().max() > 1e-10 * (1 + old.abs().max()) for old, new in zip(before, after, strict=True)):
            return False
    return True
