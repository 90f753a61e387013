"""One spelling of zero: a pruned weight is +0.0 and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def positive_zeros(values: Array) -> Array:
    """Return a C-contiguous copy of `values` in which every -0.0 is +0.0; all other bits are kept.

    A mask multiplied onto a negative weight, or a negative BatchNorm scale onto a zero, leaves -0.0:
    equal in value, but not in bits, and worse to compress.
    """
    copy = values.copy(order="C")
    copy[copy == 0] = 0
    return copy


def positions_or_first(flat: Array) -> Array:
    """Return the positions of nonzeros; position 0 where there is none, so that codes are never empty."""
    positions = np.flatnonzero(flat)
    return np.zeros(1, np.int64) if flat.size and not positions.size else positions
