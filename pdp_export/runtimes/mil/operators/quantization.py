"""Linear quantisation of values that are computed. Meaning: coremltools ``mil/ops/defs/iOS17/quantization_ops.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import operator
from pdp_export.runtimes.mil.types import torch_type


@operator("quantize")
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """``clip(round(input / scale) + zero_point)`` to int8 or uint8."""
    dtype = torch_type(output_dtype)
    limits = torch.iinfo(dtype)
    rounded = torch.round(input / _along(scale, input, axis))
    shifted = rounded if zero_point is None else rounded + _along(zero_point, input, axis)
    return shifted.nan_to_num().clamp(limits.min, limits.max).to(dtype)


@operator("dequantize")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """``scale * (input - zero_point)``."""
    values = input.float()
    shifted = values if zero_point is None else values - _along(zero_point, input, axis).float()
    return shifted * _along(scale, input, axis)


def _along(vector: Tensor, x: Tensor, axis: int | None) -> Tensor:
    if vector.ndim == 0:
        return vector
    if axis is None:
        raise ValueError("a vector of scales without an axis")
    shape = [1] * x.ndim
    shape[axis] = -1
    return vector.reshape(shape)
