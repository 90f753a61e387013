"""Small whole numbers of equal width, packed into bytes; fields start at the least significant bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdp_export.encoding.code import Array, require
from pdp_export.encoding.expressions import Constant, Expression, Payload, cast, cut, flatten, step

PLANES = {0: (), 1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
"""Widths that divide a byte, from the low bits to the high ones, by the bits of the number."""


def pack(values: Array, width: int) -> Array:
    """Return ``ceil(n * width / 8)`` bytes that hold n numbers below ``2**width``; width divides 8."""
    per_byte = 8 // width
    padded = np.pad(values.astype(np.uint8), (0, -values.size % per_byte)).reshape(-1, per_byte)
    shifts = (np.arange(per_byte) * width).astype(np.uint8)
    packed: Array = np.bitwise_or.reduce(padded << shifts, axis=1)
    return packed.astype(np.uint8)


def unpack(packed: Array, width: int, count: int) -> Array:
    """Return the first `count` numbers as uint8.

    Raises:
        ValueError: another number of bytes than `count` fields fill, or a bit set behind the last one.
    """
    require(packed.dtype == np.uint8 and packed.ndim == 1, "packed fields are no list of bytes")
    require(packed.size == packed_bytes(count, width), f"{packed.size} bytes do not belong to {count} fields")
    found = table(width)[packed].ravel()
    require(not found[count:].any(), "a field behind the last one is not zero")
    return found[:count]


def packed_bytes(count: int, width: int) -> int:
    """Return the bytes that `count` fields fill."""
    return -(-count * width // 8)


def table(width: int) -> Array:
    """Return the (256, 8 / width) uint8 table of the fields of every byte."""
    shifts = np.arange(8 // width) * width
    fields: Array = ((np.arange(256)[:, None] >> shifts) & ((1 << width) - 1)).astype(np.uint8)
    return fields


def split(values: Array, bits: int, role: str) -> dict[str, Array]:
    """Return numbers below ``2**bits`` as packed planes, named by role and width."""
    planes, shift = {}, 0
    for width in PLANES[bits]:
        part = (values >> shift) & ((1 << width) - 1)
        planes[f"{role}{width}"] = part.astype(np.uint8) if width == 8 else pack(part, width)  # noqa: PLR2004 a byte
        shift += width
    return planes


def join(arrays: Any, bits: int, role: str, count: int) -> Array:
    """Return the (count,) int64 numbers of `split`; raises ValueError as `unpack` does."""
    joined, shift = np.zeros(count, np.int64), 0
    for width in PLANES[bits]:
        joined += unpack(arrays[f"{role}{width}"], width, count).astype(np.int64) << shift
        shift += width
    return joined


def split_bytes(count: int, bits: int) -> int:
    """Return the bytes of all planes."""
    return sum(packed_bytes(count, width) for width in PLANES[bits])


def join_graph(bits: int, role: str, count: int) -> Expression:
    """Return the int32 numbers of `split`, for the graph.

    They stay bytes until they are whole: ONNX Runtime keeps every result of its folding until the last one is there.
    """
    whole: Expression | None = None
    shift = 0
    for width in PLANES[bits]:
        part = plane(f"{role}{width}", width, count, shift)
        whole = part if whole is None else step("BitwiseOr", whole, part)
        shift += width
    if whole is None:
        raise ValueError("there are no numbers of 0 bits")
    return cast(whole, "int32")


def plane(role: str, width: int, count: int, shift: int = 0) -> Expression:
    """Return the uint8 numbers of `pack`, times ``2**shift``, for the graph."""
    packed = Payload(role)
    if width == 8:  # noqa: PLR2004  a byte is no field
        return packed
    fields = Constant(f"pdp/fields{width}x{1 << shift}", table(width) << np.uint8(shift))
    found = flatten(step("Gather", fields, cast(packed, "int32")))
    return cut(found, 0, count) if count * width % 8 else found
