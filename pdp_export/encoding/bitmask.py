"""bitmask: one bit per weight that says whether it is nonzero, and the nonzero values in order.

Cost: 1 + (1 - s) V bits per weight at a share s of zeros (V = bits of a value). Decoding needs no search: the value of
a weight is found by its rank, the number of set bits up to it. The rank is the sum of two table look-ups, one per
byte of the mask and one within the byte, as in succinct bit vectors (Jacobson 1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pdp_export.encoding.zeros import positive_zeros

Array = np.ndarray[Any, Any]

CLEARED_RANK = -(1 << 30)
"""For graphs without branches: below every sum of ranks, so that ``max(0, sum)`` is index 0 for a cleared bit."""


@dataclass(frozen=True, eq=False)
class Bitmask:
    """An encoded tensor, flattened row-major.

    Attributes:
        mask: (ceil(n / 8),) uint8, bit j of byte i (least significant first) for element 8 i + j.
        values: (1 + nnz,) in the dtype of the tensor. ``values[0]`` is zero and stands for every cleared bit, so that
            decoding is one gather: ``values[rank]``.
        shape: Shape of the tensor, n elements.
    """

    mask: Array
    values: Array
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of mask and values together."""
        return self.mask.nbytes + self.values.nbytes


def encode(values: Array) -> Bitmask:
    """Encode a tensor of any shape and dtype; -0.0 becomes +0.0, every other value is kept bit by bit."""
    flat = values.ravel()
    nonzero = flat != 0
    kept = np.concatenate([np.zeros(1, flat.dtype), positive_zeros(flat[nonzero])])
    return Bitmask(np.packbits(nonzero, bitorder="little"), kept, values.shape)


def decode(codes: Bitmask) -> Array:
    """Return the tensor.

    Raises:
        ValueError: the mask has another length or another number of set bits than shape and values ask for.
    """
    size = int(np.prod(codes.shape, dtype=np.int64))
    if codes.mask.shape != (-(-size // 8),):
        raise ValueError(f"a mask of {codes.mask.size} bytes does not belong to {size} elements")
    bits = np.unpackbits(codes.mask, count=size, bitorder="little")
    ranks = np.cumsum(bits, dtype=np.int64)
    nonzeros = int(ranks[-1]) if size else 0
    if codes.values.shape != (1 + nonzeros,) or codes.values[0] != 0:
        raise ValueError(f"{codes.values.size - 1} values do not belong to {nonzeros} set bits")
    decoded: Array = codes.values[ranks * bits]
    return decoded.reshape(codes.shape)


def predicted_bytes(values: Array) -> int:
    """Return exactly ``encode(values).nbytes`` without building the codes."""
    return -(-values.size // 8) + (1 + int(np.count_nonzero(values))) * int(values.dtype.itemsize)


def rank_table() -> Array:
    """Return the (256, 8) int8 table of ranks within a byte; 0 where the bit is cleared.

    Row 0b0101 reads ``[1, 0, 2, 0, 0, 0, 0, 0]``: bit 0 is the first set bit, bit 2 the second.
    """
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")  # (256, 8)
    ranks: Array = (np.cumsum(bits, axis=1) * bits).astype(np.int8)
    return ranks


def count_table() -> Array:
    """Return the (256,) uint8 table of set bits per byte."""
    counts: Array = rank_table().max(axis=1).astype(np.uint8)
    return counts
