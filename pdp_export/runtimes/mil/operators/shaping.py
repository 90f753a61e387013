"""Shapes, joins and splits of tensors.

Meaning: coremltools ``mil/ops/defs/iOS15/tensor_transformation.py`` and ``tensor_operation.py``; ``reshape_like`` from
iOS 16; zeros in the shape of ``reshape`` count from the right since iOS 17.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import IOS17, operator


@operator("reshape")
def reshape(x: Tensor, shape: tuple[int, ...], opset: int) -> Tensor:
    """Give the same elements another shape; 0 keeps a size of `x`, -1 is what remains."""
    if 0 in shape and x.numel():
        if opset < IOS17 and len(shape) != x.ndim:
            raise ValueError("a size of 0 needs as many axes as the input has")
        behind = x.ndim - len(shape)
        kept = [x.shape[axis + behind] if axis + behind >= 0 else 1 for axis in range(len(shape))]
        shape = tuple(own if size == 0 else size for size, own in zip(shape, kept, strict=True))
    return x.reshape(shape)


@operator("reshape_like")
def reshape_like(
    x: Tensor,
    ref_tensors: tuple[Tensor, ...],
    begins: tuple[int, ...],
    ends: tuple[int, ...],
    end_masks: tuple[bool, ...],
) -> Tensor:
    """Reshape to sizes taken from the shapes of other tensors, one slice of each."""
    shape: list[int] = []
    for tensor, begin, end, to_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += tensor.shape[begin:] if to_end else tensor.shape[begin:end]
    return x.reshape(shape)


@operator("expand_dims")
def expand_dims(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Insert axes of length 1; positions count in the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def squeeze(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Remove axes of length 1 (all by default); others among `axes` are left alone."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@operator("transpose")
def transpose(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    """Permute axes: axis i of the result is axis ``perm[i]`` of `x`."""
    return x.permute(perm)


@operator("flatten2d")
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Join the axes before `axis`, and those from it on, into two."""
    place = axis if axis >= 0 else axis + x.ndim
    return x.reshape(math.prod(x.shape[:place]), math.prod(x.shape[place:]))


@operator("shape")
def shape(x: Tensor) -> Tensor:
    """Sizes of all axes."""
    return torch.tensor(x.shape, dtype=torch.int32)


@operator("concat")
def concat(values: tuple[Tensor, ...], axis: int, interleave: bool = False) -> Tensor:
    """Join along an axis, one after the other or element by element in turn."""
    if not interleave:
        return torch.cat(values, axis)
    place = axis % values[0].ndim
    mixed = torch.stack(values, place + 1)
    return mixed.reshape(*mixed.shape[:place], -1, *mixed.shape[place + 2 :])


@operator("stack")
def stack(values: tuple[Tensor, ...], axis: int) -> Tensor:
    """Join equal shapes along a new axis."""
    return torch.stack(values, axis)


@operator("split")
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: tuple[int, ...] | None = None
) -> tuple[Tensor, ...]:
    """Cut along an axis into `num_splits` equal parts, or parts of the given sizes."""
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if not num_splits or x.shape[axis] % num_splits:
        raise ValueError(f"{x.shape[axis]} elements do not divide into {num_splits} parts")
    return torch.split(x, x.shape[axis] // num_splits, axis)
