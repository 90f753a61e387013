"""Transfer rules for operators that move, pool, pad, reduce or join elements without mixing channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from pdp_export.graph.facts import grids
from pdp_export.graph.facts.elementwise import no_constants
from pdp_export.graph.facts.facts import Facts, Grid, Parts, Transfer
from pdp_export.graph.movement import rerun
from pdp_export.graph.nodes import argument, aten, has_argument, operator, shape, value
from pdp_export.graph.operators import SPATIAL


def _movement_constants(facts: Facts, node: Node) -> Grid | None:
    """Run the operator itself on the constants, so that nothing can be missed."""
    source = node.all_input_nodes[0]
    if facts.constant(source).isnan().all() or node.target is aten.view.dtype:
        return None
    moved = rerun(node, source, facts.constant(source).expand(shape(source)))
    return cast(Parts, list(moved)) if isinstance(moved, list | tuple) else cast(Tensor, moved)


def _movement_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    """Run the derivative of the operator on the needs."""
    del facts
    source = node.all_input_nodes[0]
    if node.target is aten.view.dtype:  # other numbers in the same bits
        yield source, grids.filled(source, said=True)
        return
    start = torch.zeros(shape(source), requires_grad=True)
    with torch.enable_grad():
        moved = rerun(node, source, start)
    results = list(moved) if isinstance(moved, list | tuple) else [moved]
    wanted = need if isinstance(need, list) else [need]
    pairs = [(result, part) for result, part in zip(results, wanted, strict=True) if part is not None and part.any()]
    if pairs:
        weights = [part.float().expand_as(result) for result, part in pairs]
        (gradient,) = torch.autograd.grad([result for result, _ in pairs], start, weights)
        yield source, gradient > 0


def _same_constants(facts: Facts, node: Node) -> Tensor | None:
    source = node.all_input_nodes[0]
    known = source in facts.constants and value(node).is_floating_point()
    return facts.constant(source) if known else None


def _same_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    del facts
    yield node.all_input_nodes[0], cast(Tensor, need)


def _spatial_constants(facts: Facts, node: Node) -> Tensor:
    """Zeros stay zeros; another constant only where no average counts padded zeros or divides otherwise."""
    source = node.all_input_nodes[0]
    padded = has_argument(node, "padding") and bool(np.any(argument(node, "padding")))
    changes = padded and has_argument(node, "count_include_pad") and bool(argument(node, "count_include_pad"))
    changes |= has_argument(node, "divisor_override") and argument(node, "divisor_override") is not None
    grid = grids.uniform(facts.constant(source), _last(node))
    return torch.where(grid == 0, grid, torch.nan) if changes else grid


def _spatial_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    del facts
    yield node.all_input_nodes[0], grids.any_over(cast(Tensor, need), _last(node))


def _last(node: Node) -> tuple[int, ...]:
    return tuple(range(-SPATIAL[operator(node)], 0))


def _reduction_constants(facts: Facts, node: Node) -> Tensor | None:
    source = node.all_input_nodes[0]
    if facts.constant(source).isnan().all() or not value(node).is_floating_point():
        return None
    result = cast(Tensor, rerun(node, source, facts.constant(source).expand(shape(source))))
    sized = operator(node) is aten.sum and any(not isinstance(size, int) for size in value(source).shape)
    return torch.where(result == 0, result, torch.nan) if sized else result  # a sum depends on how many there are


def _reduction_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    """Every element along a reduced axis is needed where the result is."""
    del facts
    source, wanted = node.all_input_nodes[0], cast(Tensor, need)
    rank = len(shape(source))
    dims = argument(node, "dim") if has_argument(node, "dim") else None
    reduced = sorted({axis % rank for axis in ([dims] if isinstance(dims, int) else dims or range(rank))})
    if not (has_argument(node, "keepdim") and argument(node, "keepdim")):
        for axis in reduced:
            wanted = wanted.unsqueeze(axis)
    yield source, wanted


def _concatenation_constants(facts: Facts, node: Node) -> Tensor | None:
    axis = argument(node, "dim") % len(shape(node))
    sources = [source for source in argument(node, "tensors") if len(shape(source)) == len(shape(node))]
    parts = [_full_along(facts.constant(source), axis, source) for source in sources]
    size = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    return torch.cat([part.expand(*size[:axis], part.shape[axis], *size[axis + 1 :]) for part in parts], axis)


def _concatenation_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    del facts
    wanted, start = cast(Tensor, need), 0
    axis = argument(node, "dim") % len(shape(node))
    for source in argument(node, "tensors"):
        if len(shape(source)) < len(shape(node)):
            continue  # an empty vector, which torch lets pass
        count = shape(source)[axis]
        whole = wanted.shape[axis] == 1
        yield source, wanted if whole else wanted.narrow(axis, start, count)
        start += count


def _full_along(grid: Tensor, axis: int, node: Node) -> Tensor:
    size = list(grid.shape)
    size[axis] = shape(node)[axis]
    return grid.expand(size)


def _nothing(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    """The shape is read, not the values."""
    del facts, node, need
    yield from ()


MOVEMENT = Transfer(_movement_constants, _movement_needs)
IDENTITY = Transfer(_same_constants, _same_needs)
POOLING = Transfer(_spatial_constants, _spatial_needs)
REDUCTION = Transfer(_reduction_constants, _reduction_needs)
CONCATENATION = Transfer(_concatenation_constants, _concatenation_needs)
SHAPE_ONLY = Transfer(no_constants, _nothing)
