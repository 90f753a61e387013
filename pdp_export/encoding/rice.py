"""rice0 to rice7: distances between nonzeros in a Golomb-Rice code, within a few percent of the entropy of the mask.

A distance minus one is split into low bits (k of them, packed) and a quotient, which is written in unary: that many 0
bits, then a 1 (Golomb 1966, Rice 1971; the code of the gaps of random zeros that no other prefix code beats, Gallager
and Van Voorhis 1975). About k + 1.5 bits per nonzero with 2^k near 0.7 times the mean distance, and no fillers; k = 0
is the bitmask.

The quotients need no loop to decode: the j-th 1 stands at bit j + (sum of quotients 0 to j), and where it stands is
found by writing every bit's number to the place of its rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from pdp_export.encoding import fields
from pdp_export.encoding.code import Array, Code, Codec, require, with_shape
from pdp_export.encoding.expressions import (
    Expression,
    Payload,
    axis,
    blank,
    cut,
    flatten,
    scalar,
    scattered,
    step,
)  # fmt: skip
from pdp_export.encoding.rank import ranks
from pdp_export.encoding.zeros import positions_or_first, positive_zeros

LOW_BITS = tuple(range(8))


def encode(values: Array, low: int) -> Code:
    """Encode a tensor of any shape and dtype; without nonzeros it keeps one explicit zero at position 0.

    ``unary`` holds quotients, bit by bit from the least significant; ``low*`` the low bits in planes of equal width.
    """
    flat = positive_zeros(values).ravel()
    positions = positions_or_first(flat)
    quotients, rest = _divided(positions, low)
    bits = np.zeros(_unary_bits(quotients), np.uint8)
    bits[np.cumsum(quotients + 1) - 1] = 1
    arrays = {
        "unary": np.packbits(bits, bitorder="little"),
        **fields.split(rest, low, "low"),
        "values": flat[positions],
    }
    return Code(f"rice{low}", arrays, values.shape, {"low": low})


def decode(code: Code) -> Array:
    """Return the tensor.

    Raises:
        ValueError: quotients, low bits and values disagree in length, or a position lies outside the shape.
    """
    values, low = code.arrays["values"], code.parameters["low"]
    require(values.ndim == 1, "the values are no list")
    unary = code.arrays["unary"]
    require(unary.dtype == np.uint8 and unary.ndim == 1, "the quotients are no list of bytes")
    ones = np.flatnonzero(np.unpackbits(unary, bitorder="little"))
    require(ones.size == values.size, f"{ones.size} quotients do not belong to {values.size} values")
    require(
        unary.size == -(-(int(ones[-1]) + 1) // 8) if ones.size else not unary.size, "bytes behind the last quotient"
    )
    rest = fields.join(code.arrays, low, "low", values.size)
    quotients = np.diff(ones, prepend=-1) - 1
    positions = np.cumsum((quotients << low) + rest + 1) - 1
    size = prod(code.shape)
    require(not positions.size or positions[-1] < size, f"position {positions[-1:]} is outside of {size} elements")
    flat = np.zeros(size, values.dtype)
    flat[positions] = values
    return flat.reshape(code.shape)


def predicted_bytes(values: Array, low: int) -> int:
    """Return exactly ``encode(values, low).nbytes`` without building the code."""
    positions = positions_or_first(values.ravel())
    quotients, _ = _divided(positions, low)
    unary = -(-_unary_bits(quotients) // 8)
    return unary + fields.split_bytes(positions.size, low) + positions.size * int(values.dtype.itemsize)


def graph(code: Code) -> Expression:
    """Return the decoder: position i = 2^k (place of the i-th 1 - i) + sum of low bits + i."""
    values, low = code.arrays["values"], code.parameters["low"]
    count = values.size
    places = _places(count, code.arrays["unary"].size)
    positions: Expression = places
    if low:
        quotient_free = step("Add", fields.join_graph(low, "low", count), scalar(1 - (1 << low)))
        tail = step("Add", step("CumSum", quotient_free, axis(0)), scalar((1 << low) - 1))
        positions = step("Add", step("Mul", places, scalar(1 << low)), tail)
    return scattered(positions, code.shape, values.dtype)


def _places(count: int, unary_bytes: int) -> Expression:
    """Return where each 1 stands. Each bit writes its number to its rank; a 0 to a place of its own behind them."""
    bits = 8 * unary_bytes
    rank = flatten(ranks(Payload("unary")))  # (bits,)
    own = _range(count + 1, count + 1 + bits)
    target = step("Where", step("Greater", rank, scalar(0)), rank, own)
    space = blank(count + 1 + bits, np.dtype(np.int32))
    return cut(step("ScatterElements", space, target, _range(0, bits), axis=0), 1, count + 1)


def _range(start: int, stop: int) -> Expression:
    return step("Range", scalar(start), scalar(stop), scalar(1))


def _divided(positions: Array, low: int) -> tuple[Array, Array]:
    gaps = np.diff(positions, prepend=-1) - 1
    return gaps >> low, gaps & ((1 << low) - 1)


def _unary_bits(quotients: Array) -> int:
    return int(quotients.sum()) + quotients.size


def _samples(low: int) -> Iterator[Code]:
    for entries in (8, 4, 2, 1):
        yield encode(np.ones(entries, np.float32), low)


def codec(low: int) -> Codec:
    """Return the codec with that many low bits."""
    return Codec(
        encode=lambda values: encode(values, low),
        decode=decode,
        predicted_bytes=lambda values: predicted_bytes(values, low),
        graph=graph,
        samples=lambda: _samples(low),
        rebuild=with_shape,
    )
