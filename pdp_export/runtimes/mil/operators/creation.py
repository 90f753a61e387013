"""Tensors made from parameters, and tensors made larger.

Meaning: coremltools ``mil/ops/defs/iOS15/tensor_operation.py`` and ``iOS16/tensor_operation.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pdp_export.runtimes.mil.registry import check_size, operator, undocumented


@operator("fill")
def fill(shape: tuple[int, ...], value: Tensor | None = None) -> Tensor:
    """A tensor of one value, 0.0 by default."""
    check_size(shape)
    chosen = torch.tensor(0.0) if value is None else value.reshape(())
    return torch.full(shape, chosen.item(), dtype=chosen.dtype)


@operator("fill_like")
def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """A tensor of one value with the shape of another."""
    return fill(tuple(ref_tensor.shape), value)


@operator("range_1d")
def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    """``start, start + step, ...`` below `end`."""
    check_size([max(0, math.ceil((end.item() - start.item()) / step.item()))])
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@operator("one_hot")
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """`on_value` at each index along a new axis, `off_value` elsewhere."""
    check_size([*indices.shape, one_hot_vector_size])
    on = torch.tensor(1, dtype=torch.int32) if on_value is None else on_value.reshape(())
    off = torch.zeros_like(on) if off_value is None else off_value.reshape(())
    hit = indices.unsqueeze(-1) == torch.arange(one_hot_vector_size)
    return torch.where(hit, on, off).movedim(-1, axis)


@operator("tile")
def tile(x: Tensor, reps: tuple[int, ...]) -> Tensor:
    """Repeat along every axis."""
    check_size([size * count for size, count in zip(x.shape, reps, strict=True)])
    return x.repeat(reps)


@operator("pad")
def pad(x: Tensor, pad: tuple[int, ...], mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    """Pad the last ``len(pad) / 2`` axes by (before, after): a constant, mirrored without the edge, or the edge."""
    count = len(pad) // 2
    if len(pad) % 2 or count > x.ndim or min(pad, default=0) < 0:
        raise ValueError(f"{list(pad)} does not pad a tensor of {x.ndim} axes")
    first = x.ndim - count
    sides = {first + axis: (pad[2 * axis], pad[2 * axis + 1]) for axis in range(count)}
    check_size([size + sum(sides.get(axis, (0, 0))) for axis, size in enumerate(x.shape)])
    if mode == "constant":
        value = 0 if constant_val is None else constant_val.item()
        return F.pad(x, [amount for axis in sorted(sides, reverse=True) for amount in sides[axis]], value=value)
    for axis, (before, after) in sides.items():
        x = _mirrored(x, axis, before, after, mode)
    return x


def _mirrored(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size = x.shape[axis]
    indices = torch.arange(-before, size + after)
    if mode == "replicate":
        return x.index_select(axis, indices.clamp(0, size - 1))
    if mode != "reflect":
        raise ValueError(f"unknown mode {mode!r}")
    if max(before, after) >= size:
        raise undocumented(f"reflecting {max(before, after)} elements of an axis of {size}")
    return x.index_select(axis, (size - 1) - ((size - 1) - indices.abs()).abs())


@operator("cumsum")
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum along an axis, with or without the element itself, from the front or from the back."""
    y = x.flip(axis) if reverse else x
    total = y.cumsum(axis, dtype=x.dtype)
    total = total - y if exclusive else total
    return total.flip(axis) if reverse else total


@operator("band_part")
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zero what lies more than `lower` below or `upper` above the diagonal; a negative number keeps that side."""
    rows, columns = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])[None, :]
    kept = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        kept &= rows - columns <= lower
    if upper >= 0:
        kept &= columns - rows <= upper
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))
