"""Parts of tensors.

Meaning: coremltools ``mil/ops/defs/iOS15/tensor_transformation.py``, ``iOS15/image_resizing.py`` (crop) and
``iOS18/tensor_transformation.py`` (slice_update).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import operator

Masks = tuple[bool, ...] | None


@operator("slice_by_index")
def slice_by_index(
    x: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """``x[begin:end:stride]`` per axis, as numpy does it; masks drop a bound, or take one index and the axis away."""
    chosen = _chosen(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, indices in enumerate(chosen):
        if _is_run(indices):
            x = x.narrow(axis, indices[0] if len(indices) else 0, len(indices))
        else:
            x = x.index_select(axis, torch.tensor(indices))
    return x.squeeze([axis for axis, gone in enumerate(squeeze_mask or ()) if gone]) if squeeze_mask else x


@operator("slice_update")
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """Return `x` with the part that ``slice_by_index`` would take replaced by `update`."""
    chosen = _chosen(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    places = torch.meshgrid(*(torch.tensor(indices) for indices in chosen), indexing="ij")
    y = x.clone()
    y[places] = update.reshape(places[0].shape)
    return y


def _chosen(
    x: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None,
    begin_mask: Masks,
    end_mask: Masks,
    squeeze_mask: Masks,
) -> list[range]:
    """Return the indices that are taken along every axis."""
    rank = x.ndim
    if len(begin) != rank or len(end) != rank or len(stride or begin) != rank:
        raise ValueError(f"bounds for {len(begin)} axes of a tensor with {rank}")
    no = (False,) * rank
    rows = zip(
        x.shape, begin, end, stride or (1,) * rank, begin_mask or no, end_mask or no, squeeze_mask or no, strict=True
    )
    return [_along_axis(*row) for row in rows]


def _along_axis(size: int, begin: int, end: int, stride: int, no_begin: bool, no_end: bool, single: bool) -> range:
    if single:
        index = 0 if no_begin else begin
        if not -size <= index < size:
            raise IndexError(f"index {index} of an axis of {size}")
        return range(index % size, index % size + 1)
    return range(*slice(None if no_begin else begin, None if no_end else end, stride).indices(size))


def _is_run(indices: range) -> bool:
    return indices.step == 1 or len(indices) == 0


@operator("slice_by_size")
def slice_by_size(x: Tensor, begin: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Take `size` elements from `begin` on along every axis; -1 takes all that follow."""
    for axis, (start, count) in enumerate(zip(begin, size, strict=True)):
        first = start % x.shape[axis] if start < 0 else start
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


@operator("sliding_windows")
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """All windows along an axis, `stride` apart; the elements of a window follow in a new axis behind it."""
    return x.unfold(axis, size, stride).movedim(-1, axis % x.ndim + 1)


@operator("crop")
def crop(x: Tensor, crop_height: tuple[int, ...], crop_width: tuple[int, ...]) -> Tensor:
    """Cut (top, bottom) and (left, right) off the last two axes."""
    for axis, (before, after) in ((-2, _pair(crop_height)), (-1, _pair(crop_width))):
        x = x.narrow(axis, before, x.shape[axis] - before - after)
    return x


def _pair(values: Sequence[int]) -> tuple[int, int]:
    before, after = values
    return before, after


@operator("reverse")
def reverse(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Reverse the order along `axes` (all by default)."""
    return x.flip(tuple(range(x.ndim)) if axes is None else axes)


@operator("reverse_sequence")
def reverse_sequence(x: Tensor, lengths: tuple[int, ...], seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Reverse, for each sample, the first ``lengths[i]`` elements along `seq_axis`."""
    samples = x.unbind(batch_axis)
    axis = seq_axis % x.ndim
    axis -= axis > batch_axis % x.ndim
    parts = [
        torch.cat([sample.narrow(axis, 0, n).flip(axis), sample.narrow(axis, n, sample.shape[axis] - n)], axis)
        for sample, n in zip(samples, lengths, strict=True)
    ]
    return torch.stack(parts, batch_axis)
