"""Ranks in packed bits: how many bits are set up to each of them, by two table look-ups.

As in succinct bit vectors (Jacobson 1989): a running sum over bytes, and a table of ranks within a byte.
"""

from __future__ import annotations

import numpy as np

from pdp_export.encoding.code import Array
from pdp_export.encoding.expressions import Constant, Expression, axis, cast, scalar, shape_constant, step

CLEARED_RANK = -(1 << 30)
"""For graphs without branches: below every sum of ranks, so that a cleared bit's rank is negative."""


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


def ranks(mask: Expression) -> Expression:
    """Return the (b, 8) ranks of all bits of a uint8 mask (b,), counted from 1; negative where a bit is cleared."""
    index = cast(mask, "int32")  # (b,)
    counts = cast(Constant("pdp/counts/bytes", count_table()), "int32", name="pdp/counts")
    before = step("CumSum", step("Gather", counts, index), axis(0), exclusive=1)  # (b,)
    column = step("Unsqueeze", before, shape_constant((1,)))  # (b, 1)
    return step("Add", column, step("Gather", _tables(), index))


def at_rank(values: Expression, mask: Expression) -> Expression:
    """Return (b, 8): ``values[rank]`` for every bit of the mask, ``values[0]`` where it is cleared."""
    return step("Gather", values, step("Max", ranks(mask), scalar(0)))


def _tables() -> Expression:
    """Return the (256, 8) int32 ranks, widened from one byte each, cleared bits far below zero."""
    stored = Constant("pdp/ranks/bytes", rank_table())
    wide, is_set = cast(stored, "int32", name="pdp/ranks/wide"), cast(stored, "bool", name="pdp/ranks/set")
    return step("Where", is_set, wide, scalar(CLEARED_RANK), name="pdp/ranks")
