"""Transfer rules for operators that mix along an axis: normalisation, softmax, matrix products, attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.fx import Node

from pdp_export.graph.facts import grids
from pdp_export.graph.facts.facts import Facts, Grid, Transfer, everything
from pdp_export.graph.nodes import argument, is_fixed, operator, shape, value
from pdp_export.graph.operators import SOFTMAXES

_MATRIX = 2


def _softmax_constants(facts: Facts, node: Node) -> Tensor | None:
    """Rows of constants are constant, unless how many there are may change."""
    source, axis = node.all_input_nodes[0], argument(node, "dim") % len(shape(node))
    grid = facts.constant(source)
    if not is_fixed(value(source).shape[axis]):
        return None
    whole = grid.expand(*grid.shape[:axis], shape(source)[axis], *grid.shape[axis + 1 :])
    function = torch.softmax if operator(node) in SOFTMAXES else torch.log_softmax
    known = whole.isfinite().all(axis, keepdim=True)
    return torch.where(known, function(grids.or_zero(whole), axis), torch.nan)


def _softmax_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    del facts
    yield node.all_input_nodes[0], grids.any_over(cast(Tensor, need), (argument(node, "dim"),))


def _scale_and_shift(facts: Facts, node: Node, axis: int) -> tuple[Tensor, Tensor]:
    """Return the learned scale and shift of a normalisation as grids of its input."""
    rank = len(shape(node))
    found = []
    for name, otherwise in (("weight", 1.0), ("bias", 0.0)):
        item = argument(node, name)
        grid = (
            torch.tensor(otherwise, dtype=torch.float64) if item is None else facts.constant(item).expand(shape(item))
        )
        size = [1] * axis + list(grid.shape)
        found.append(grid.reshape(size + [1] * (rank - len(size))) if grid.dim() else grid)
    return found[0], found[1]


def _layer_norm_axis(node: Node) -> int:
    return len(shape(node)) - len(argument(node, "normalized_shape"))


def _layer_norm_constants(facts: Facts, node: Node) -> Tensor:
    """Constants where all that is normalised together is constant, and where the learned scale is zero."""
    first, size = _layer_norm_axis(node), shape(node)
    scale, shift = _scale_and_shift(facts, node, first)
    grid = facts.constant(argument(node, "input"))
    whole = grid.expand(*grid.shape[:first], *size[first:])
    result = _normalised(whole, tuple(range(first, len(size))), argument(node, "eps")) * scale + shift
    return torch.where(scale == 0, shift, result)


def _normalised(grid: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """Return the grid with mean 0 and variance 1 along these axes; NaN where anything along them varies."""
    known = grid.isfinite().all(axes, keepdim=True)
    variance, mean = torch.var_mean(grids.or_zero(grid), axes, correction=0, keepdim=True)
    return torch.where(known, (grid - mean) * (variance + epsilon).rsqrt(), torch.nan)


def _layer_norm_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    del facts
    axes = tuple(range(_layer_norm_axis(node), len(shape(node))))
    yield argument(node, "input"), grids.any_over(cast(Tensor, need), axes)


def _group_norm_constants(facts: Facts, node: Node) -> Tensor:
    """The same for groups of channels; a channel that is one constant has it at every place."""
    scale, shift = _scale_and_shift(facts, node, 1)
    source, groups = argument(node, "input"), argument(node, "num_groups")
    lines = grids.line(facts.constant(source), 1, shape(source)[1]).reshape(groups, -1)
    result = grids.spread(_normalised(lines, (1,), argument(node, "eps")).flatten(), 1, len(shape(node)))
    return torch.where(scale == 0, shift, result * scale + shift)


def _group_norm_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    del facts
    source, groups = argument(node, "input"), argument(node, "num_groups")
    rows = grids.line(cast(Tensor, need), 1, shape(source)[1]).reshape(groups, -1)
    wanted = rows.any(1, keepdim=True).expand_as(rows).flatten()
    yield source, grids.spread(wanted, 1, len(shape(source)))


def _operands(node: Node) -> tuple[Node, Node] | None:
    first, second = node.all_input_nodes if len(node.all_input_nodes) > 1 else node.all_input_nodes * 2
    return (first, second) if min(len(shape(first)), len(shape(second))) >= _MATRIX else None


def _sums_to_one(node: Node) -> bool:
    """Tell whether every row is a softmax."""
    return operator(node) in SOFTMAXES and argument(node, "dim") in {-1, len(shape(node)) - 1}


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Return where any of the products that are summed is true; both are expanded along the summed axis."""
    count = max(first.shape[-1], second.shape[-2])
    first = first.expand(*first.shape[:-1], count).double()
    second = second.expand(*second.shape[:-2], count, second.shape[-1]).double()
    return torch.matmul(first, second) > 0


def _matmul_constants(facts: Facts, node: Node) -> Tensor | None:
    """A product of matrices is known where every summand is: a known zero silences the other factor.

    Rows that sum to one pass on what all rows of the second matrix have in common.
    """
    pair = _operands(node)
    if pair is None:
        return None
    first, second = (facts.constant(item) for item in pair)
    if _sums_to_one(pair[0]):  # attention, spelled out
        common = grids.uniform(second, (-2,))
        return common.reshape([1] * (len(shape(node)) - common.dim()) + list(common.shape))
    if first.isinf().any() or second.isinf().any():
        return None
    blank = _product(first.isnan(), second != 0) | _product(first != 0, second.isnan())
    left = first.expand(*first.shape[:-1], shape(pair[0])[-1])
    right = second.expand(*second.shape[:-2], shape(pair[1])[-2], second.shape[-1])
    return torch.where(blank, torch.nan, torch.matmul(grids.or_zero(left), grids.or_zero(right)))


def _matmul_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    pair = _operands(node)
    if pair is None:
        yield from everything(node)
        return
    first, second = pair
    if any(facts.constant(item).isinf().any() for item in pair):  # which no zero silences
        yield from everything(node)
        return
    wanted = cast(Tensor, need)
    used = facts.constant(second)
    touched = grids.varies(grids.uniform(used, (-2,))) if _sums_to_one(first) else used != 0
    left = _product(wanted, touched.transpose(-1, -2))
    right = _product((facts.constant(first) != 0).transpose(-1, -2), wanted)
    yield first, grids.fitted(left, shape(first))
    yield second, grids.fitted(right, shape(second))


def _attention_constants(facts: Facts, node: Node) -> Tensor | None:
    """The weights of each token sum to one: a value that is the same for all tokens passes through."""
    if argument(node, "dropout_p"):
        return None
    values = argument(node, "value")
    grid = grids.uniform(facts.constant(values), (-2,))
    if argument(node, "attn_mask") is not None:  # a token that sees no other has no weights
        grid = torch.where(grid == 0, grid, torch.nan)
    return _repeated(grid, _sharing(node, values))


def _attention_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    """A head's result needs its query and key, and of its values the same entry in every token.

    An entry of the key that is one constant for all tokens adds the same to all scores, which softmax ignores.
    """
    wanted = cast(Tensor, need)
    over_tokens = grids.any_over(wanted, (-2,))
    head = grids.any_over(over_tokens, (-1,))
    query, key, values, mask = (argument(node, name) for name in ("query", "key", "value", "attn_mask"))
    times = _sharing(node, key)
    common, used = (grids.uniform(facts.constant(item), (-2,)) for item in (key, query))
    yield query, grids.fitted(head & _repeated(grids.varies(common), times), shape(query))
    yield key, grids.fitted(_shared(head & (used != 0), times), shape(key))
    yield values, grids.fitted(_shared(over_tokens, _sharing(node, values)), shape(values))
    if mask is not None:
        yield mask, grids.filled(mask, said=True)


def _sharing(node: Node, item: Node) -> int:
    """Return how many query heads share one head of keys or values (grouped-query attention)."""
    rank = len(shape(node))
    return shape(node)[-3] // shape(item)[-3] if rank > _MATRIX and argument(node, "enable_gqa") else 1


def _repeated(grid: Tensor, times: int) -> Tensor:
    return grid if times == 1 or grid.shape[-3] == 1 else grid.repeat_interleave(times, -3)


def _shared(need: Tensor, times: int) -> Tensor:
    if times == 1 or need.shape[-3] == 1:
        return need
    size = need.shape
    return need.reshape(*size[:-3], size[-3] // times, times, *size[-2:]).any(-3)


SOFTMAX = Transfer(_softmax_constants, _softmax_needs)
LAYER_NORM = Transfer(_layer_norm_constants, _layer_norm_needs)
GROUP_NORM = Transfer(_group_norm_constants, _group_norm_needs)
MATMUL = Transfer(_matmul_constants, _matmul_needs)
ATTENTION = Transfer(_attention_constants, _attention_needs)
