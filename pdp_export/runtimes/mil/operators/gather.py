"""Reads at computed indices.

Meaning: coremltools ``mil/ops/defs/iOS15/scatter_gather.py``; `batch_dims` since iOS 16; since iOS 17 a negative index
is out of bounds, and one out of bounds has no defined result, so it is refused here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import IOS17, check_size, operator


@operator("gather")
def gather(
    x: Tensor, indices: Tensor, opset: int, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """Take slices of `x` along an axis; the axes of `indices` replace it."""
    del validate_indices
    place = axis % x.ndim
    chosen = in_bounds(indices, x.shape[place], opset)
    check_size([*x.shape[:place], *indices.shape[batch_dims:], *x.shape[place + 1 :]])
    if batch_dims == 0:
        return _gathered(x, chosen, place)
    batch = x.shape[:batch_dims]
    pairs = zip(x.reshape(-1, *x.shape[batch_dims:]), chosen.reshape(-1, *chosen.shape[batch_dims:]), strict=True)
    parts = [_gathered(part, own, place - batch_dims) for part, own in pairs]
    return torch.stack(parts).reshape(*batch, *parts[0].shape)


def _gathered(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    taken = x.index_select(axis, indices.reshape(-1))
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("gather_along_axis")
def gather_along_axis(x: Tensor, indices: Tensor, opset: int, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Take one element per index along an axis; all other axes are those of `indices`."""
    del validate_indices
    return torch.take_along_dim(x, in_bounds(indices, x.shape[axis], opset), axis)


@operator("gather_nd")
def gather_nd(x: Tensor, indices: Tensor, opset: int, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Take slices of `x`; the last axis of `indices` holds one index per axis that is fixed."""
    del validate_indices
    if batch_dims == 0:
        return _gathered_nd(x, indices, opset)
    batch = x.shape[:batch_dims]
    count = math.prod(batch)
    own_x, own_indices = x.reshape(count, *x.shape[batch_dims:]), indices.reshape(count, *indices.shape[batch_dims:])
    parts = [_gathered_nd(part, own, opset) for part, own in zip(own_x, own_indices, strict=True)]
    return torch.stack(parts).reshape(*batch, *parts[0].shape)


def _gathered_nd(x: Tensor, indices: Tensor, opset: int) -> Tensor:
    columns = indices.unbind(-1)
    check_size([*indices.shape[:-1], *x.shape[len(columns) :]])
    return x[tuple(in_bounds(column, size, opset) for column, size in zip(columns, x.shape, strict=False))]


def in_bounds(indices: Tensor, size: int, opset: int) -> Tensor:
    """Return int64 indices from 0 on.

    Raises:
        IndexError: for an index out of bounds (since iOS 17 also a negative one).
    """
    chosen = indices.long()
    lowest = 0 if opset >= IOS17 else -size
    if chosen.numel() and (int(chosen.min()) < lowest or int(chosen.max()) >= size):
        raise IndexError(f"indices from {int(chosen.min())} to {int(chosen.max())} on an axis of {size}")
    return torch.where(chosen < 0, chosen + size, chosen)
