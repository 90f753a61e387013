"""Writes at computed indices.

Meaning: coremltools ``mil/ops/defs/iOS15/scatter_gather.py`` and ``iOS17/scatter_gather.py`` (no negative indices).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pdp_export.runtimes.mil.operators.gather import in_bounds
from pdp_export.runtimes.mil.registry import operator

_REDUCTIONS = {"add": "sum", "sub": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("scatter")
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    opset: int,
    axis: int = 0,
    mode: str = "update",
    validate_indices: bool = False,
) -> Tensor:
    """Combine whole slices of `updates` into `data` at indices along an axis."""
    del validate_indices
    place = axis % data.ndim
    chosen = in_bounds(indices, data.shape[place], opset)
    shape = [1] * data.ndim
    shape[place] = -1
    return _combined(data, chosen.reshape(shape).expand(updates.shape), updates, place, mode)


@operator("scatter_along_axis")
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    opset: int,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """Combine each element of `updates` into `data` at its own index along an axis."""
    del validate_indices
    return _combined(data, in_bounds(indices, data.shape[axis], opset), updates, axis % data.ndim, mode)


@operator("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, opset: int, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Combine slices of `updates` into `data`; the last axis of `indices` holds one index per fixed axis."""
    del validate_indices
    columns = indices.unbind(-1)
    fixed = data.shape[: len(columns)]
    flat = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for column, size in zip(columns, fixed, strict=True):
        flat = flat * size + in_bounds(column, size, opset)
    rest = math.prod(data.shape[len(columns) :])
    rows = flat.reshape(-1, 1).expand(-1, rest)
    combined = _combined(data.reshape(-1, rest), rows, updates.reshape(-1, rest), 0, mode)
    return combined.reshape(data.shape)


def _combined(data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, indices, updates)
    if mode == "div":
        divisors = torch.ones_like(data).scatter_reduce(axis, indices, updates, "prod")
        return data / divisors if data.is_floating_point() else torch.div(data, divisors, rounding_mode="trunc")
    if mode not in _REDUCTIONS:
        raise ValueError(f"unknown mode {mode!r}")
    return data.scatter_reduce(axis, indices, -updates if mode == "sub" else updates, _REDUCTIONS[mode])
