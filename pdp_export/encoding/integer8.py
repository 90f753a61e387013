"""int8: every channel (axis 0) as integers from -127 to 127 and one scale, chosen so that zeros stay zeros.

Deterministic, so that a stored file can be compared bit by bit with what these functions make of the original weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pdp_export.encoding.zeros import positive_zeros

Array = np.ndarray[Any, Any]

LARGEST = 127


@dataclass(frozen=True, eq=False)
class Integers:
    """`values` int8 in the shape of the tensor, `scale` (C, 1, ...) in its float dtype: ``scale * values``."""

    values: Array
    scale: Array


def encode(weights: Array) -> Integers:
    """Quantise a float16 or float32 tensor of rank >= 2; the largest magnitude of each channel becomes +-127.

    The scale is rounded to the dtype of the weights first. Values below half a step become zeros too.
    """
    axes = tuple(range(1, weights.ndim))
    wide = weights.astype(np.float64)
    scale = (np.abs(wide).max(axis=axes, keepdims=True, initial=0) / LARGEST).astype(weights.dtype)
    scale = np.where(scale == 0, np.finfo(weights.dtype).smallest_subnormal, scale).astype(weights.dtype)
    steps = np.rint(wide / scale.astype(np.float64))
    return Integers(np.clip(steps, -LARGEST, LARGEST).astype(np.int8), scale)


def decode(codes: Integers) -> Array:
    """Return the weights that the integers stand for: formed in float32, rounded to the dtype of the scale once."""
    product = codes.scale.astype(np.float32) * codes.values.astype(np.float32)
    return positive_zeros(product.astype(codes.scale.dtype))
