"""Pooling over one to three axes. Meaning: coremltools ``mil/ops/defs/iOS15/pool.py``."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from pdp_export.runtimes.mil.operators.convolution import padded, padding_of
from pdp_export.runtimes.mil.registry import operator

_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
Sides = list[tuple[int, int]]


@operator("max_pool")
def max_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest value of each window; padding never wins."""
    step = strides or (1,) * len(kernel_sizes)
    sides = padding_of(pad_type, pad, x.shape[2:], kernel_sizes, step)
    wide = padded(x, _with_overhang(x, kernel_sizes, step, sides, ceil_mode), value=-math.inf)
    return _MAX[len(kernel_sizes)](wide, kernel_sizes, step)


@operator("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean of each window; padding counts as zeros unless it is excluded, what ceil_mode adds never counts."""
    mean, _ = _window_means(x, kernel_sizes, pad_type, strides, pad, exclude_padding_from_average, ceil_mode)
    return mean


@operator("l2_pool")
def l2_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Root of the sum of squares of each window."""
    mean, count = _window_means(x * x, kernel_sizes, pad_type, strides, pad, False, ceil_mode)
    return (mean * count).sqrt()


def _window_means(
    x: Tensor,
    kernel: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None,
    pad: tuple[int, ...] | None,
    exclude: bool,
    ceil_mode: bool,
) -> tuple[Tensor, Tensor | float]:
    """Return the mean of each window, and how many elements it counts."""
    step = strides or (1,) * len(kernel)
    pool = _MEAN[len(kernel)]
    sides = padding_of(pad_type, pad, x.shape[2:], kernel, step)
    overhang = _with_overhang(x, kernel, step, sides, ceil_mode)
    whole = float(math.prod(kernel))
    if overhang == sides and (not exclude or not any(map(any, sides))):
        return pool(padded(x, sides), kernel, step), whole
    counted = x.new_ones(1, 1, *x.shape[2:])
    if not exclude:
        counted = padded(counted, sides, value=1.0)
        extra = [(0, after - own) for (_, after), (_, own) in zip(overhang, sides, strict=True)]
    share = pool(padded(counted, overhang if exclude else extra), kernel, step)
    return pool(padded(x, overhang), kernel, step) / share, share * whole


def _with_overhang(x: Tensor, kernel: tuple[int, ...], step: tuple[int, ...], sides: Sides, ceil_mode: bool) -> Sides:
    """Lengthen the padding behind so that the last, incomplete window of `ceil_mode` fits."""
    if not ceil_mode:
        return sides
    longer = []
    for size, reach, stride, (before, after) in zip(x.shape[2:], kernel, step, sides, strict=True):
        count = -(-(size + before + after - reach) // stride) + 1
        if before + after > 0 and (count - 1) * stride >= size + before:
            count -= 1
        longer.append((before, max(after, (count - 1) * stride + reach - size - before)))
    return longer
