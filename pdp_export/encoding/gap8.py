"""gap8: the nonzero values of a tensor and the distance of each from the one before, in one byte.

Cost: 8 + V bits per nonzero (V = bits of a value), plus one filler per 255 zeros in a row. Beats the bitmask where
fewer than about one weight in eight is left. The idea of short gaps with fillers is that of Deep Compression (Han et
al. 2016, arXiv 1510.00149, figure 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pdp_export.encoding.zeros import positive_zeros

Array = np.ndarray[Any, Any]
_LONGEST = 255


@dataclass(frozen=True, eq=False)
class Gap8:
    """An encoded tensor, flattened row-major.

    The position of entry i is the sum of ``gaps[: i + 1]``; positions never repeat. An entry whose value is zero is
    a filler that carries the position on where a gap exceeds 255.

    Attributes:
        gaps: (k,) uint8.
        values: (k,) in the dtype of the tensor.
        shape: Shape of the tensor.
    """

    gaps: Array
    values: Array
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of gaps and values together."""
        return self.gaps.nbytes + self.values.nbytes


def encode(values: Array) -> Gap8:
    """Encode a tensor of any shape and dtype; -0.0 becomes +0.0, every other value is kept bit by bit.

    A tensor without nonzeros keeps one explicit zero, so that no array is empty; an empty tensor has no entries.
    """
    flat = positive_zeros(values).ravel()
    steps = _steps(flat)
    ends = np.cumsum(_fillers(steps) + 1) - 1  # (nnz,) entry that holds each nonzero
    gaps = np.full(ends[-1] + 1 if ends.size else 0, _LONGEST, np.uint8)
    kept = np.zeros(gaps.size, flat.dtype)
    gaps[ends] = steps - _LONGEST * _fillers(steps)
    kept[ends] = flat[np.cumsum(steps)]
    return Gap8(gaps, kept, values.shape)


def decode(codes: Gap8) -> Array:
    """Return the tensor.

    Raises:
        ValueError: gaps and values disagree in length, a position repeats or lies outside the shape.
    """
    size = int(np.prod(codes.shape, dtype=np.int64))
    if codes.gaps.shape != codes.values.shape or codes.gaps.ndim != 1:
        raise ValueError(f"{codes.gaps.size} gaps do not belong to {codes.values.size} values")
    positions = np.cumsum(codes.gaps, dtype=np.int64)
    if positions.size and positions[-1] >= size:
        raise ValueError(f"position {positions[-1]} is outside of {size} elements")
    if not codes.gaps[1:].all():
        raise ValueError("a position repeats")
    flat = np.zeros(size, codes.values.dtype)
    flat[positions] = codes.values
    return flat.reshape(codes.shape)


def predicted_bytes(values: Array) -> int:
    """Return exactly ``encode(values).nbytes`` without building the codes."""
    steps = _steps(values.ravel())
    entries = steps.size + int(_fillers(steps).sum())
    return int(entries) * (1 + int(values.dtype.itemsize))


def _steps(flat: Array) -> Array:
    positions = np.flatnonzero(flat)
    if not positions.size and flat.size:
        positions = np.zeros(1, np.int64)
    return np.diff(positions, prepend=0)


def _fillers(steps: Array) -> Array:
    fillers: Array = np.maximum(steps - 1, 0) // _LONGEST
    return fillers
