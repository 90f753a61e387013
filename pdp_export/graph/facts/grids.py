"""Grids: one number per channel of a tensor, as small as its axes allow.

A grid has the rank of its tensor; an axis along which all entries are equal has size 1, so a
convolution's result (N, C, H, W) has a grid (1, C, 1, 1). NaN stands for "depends on the input", an
infinity for a constant that is not finite, which no zero absorbs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from pdp_export.graph.nodes import is_fixed, value


def unknown(node: Node) -> Tensor:
    """Return the grid of a tensor about which nothing is known."""
    return torch.full([1] * value(node).dim(), torch.nan, dtype=torch.float64)


def filled(node: Node, said: bool) -> Tensor:
    """Return the grid that says the same of every element."""
    return torch.full([1] * value(node).dim(), said)


def compressed(values: Tensor) -> Tensor:
    """Return the grid of a tensor: every axis along which nothing varies shrinks to size 1."""
    tensor = values
    for axis, size in enumerate(tensor.shape):
        if size > 1:
            first = tensor.narrow(axis, 0, 1)
            if tensor.stride(axis) == 0 or _same(tensor, first, axis):
                tensor = first
    return tensor if tensor is values else tensor.clone()  # a view would keep all of the values


def settled(grid: Tensor, node_value: Tensor) -> Tensor:
    """Return the grid without differences along dynamic axes, whose entries are others at another size."""
    for axis, size in enumerate(node_value.shape):
        if not is_fixed(size) and grid.shape[axis] > 1:
            grid = any_over(grid, (axis,)) if grid.dtype == torch.bool else uniform(grid, (axis,))
    return grid


def uniform(grid: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the grid with size 1 along these axes: NaN where the values along them disagree."""
    for axis in axes:
        first = grid.narrow(axis, 0, 1)
        grid = torch.where((grid == first).all(axis, keepdim=True), first, torch.nan)
    return grid


def varies(grid: Tensor) -> Tensor:
    """Return where the value is no finite constant."""
    return ~grid.isfinite()


def or_zero(grid: Tensor) -> Tensor:
    """Return the grid with zero where the value varies, to compute with."""
    return torch.where(grid.isfinite(), grid, 0.0)


def any_over(grid: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return whether any entry along these axes is true; they keep size 1."""
    return grid.any(axes, keepdim=True) if axes else grid


def fitted(need: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a need of a broadcast result as that of an operand of this size; one that is spread is needed by any."""
    extra = need.dim() - len(size)
    need = any_over(need, tuple(range(extra))).reshape(need.shape[extra:]) if extra else need
    return any_over(need, tuple(axis for axis, length in enumerate(size) if length == 1))


def spread(vector: Tensor, axis: int, rank: int) -> Tensor:
    """Return a vector (C,) as a grid with C entries along `axis`."""
    return vector.reshape([-1 if other == axis % rank else 1 for other in range(rank)])


def line(grid: Tensor, axis: int, count: int) -> Tensor:
    """Return `count` entries along `axis`: the value where all others agree, NaN where they do not; any for needs."""
    lines = grid.movedim(axis, 0).reshape(grid.shape[axis], -1)
    if grid.dtype == torch.bool:
        return lines.any(1).expand(count)
    same = (lines == lines[:, :1]).all(1)
    return torch.where(same, lines[:, 0], torch.nan).expand(count)


def lines(grid: Tensor, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """Return a grid of needs along several axes, true where any entry of the others is; shape `sizes`."""
    others = tuple(axis for axis in range(grid.dim()) if axis not in axes)
    return any_over(grid, others).squeeze(others).expand(sizes)


def _same(tensor: Tensor, first: Tensor, axis: int) -> bool:
    """Tell whether all entries along an axis are equal; the last one mostly says no, at a fraction of the work."""
    last = tensor.narrow(axis, tensor.shape[axis] - 1, 1)
    return _equal(first, last) and _equal(first.expand_as(tensor), tensor)


def _equal(first: Tensor, second: Tensor) -> bool:
    same = first == second
    return bool((same | (first.isnan() & second.isnan())).all() if first.is_floating_point() else same.all())
