"""nm: at most n of every m neighbours along one axis are nonzero; their places in the group take 1, 2 or 4 bits.

Cost: (n / m) (p + V) bits per weight, p = 1, 2, 4, 4 bits for m = 2, 4, 8, 16 (V = bits of a value). For 2:4 that is
exactly the bitmask, but decoding touches the nonzeros only; for 1:4 it is 6 % less (fp32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import numpy as np

from pdp_export.encoding import fields
from pdp_export.encoding.code import Array, Code, Codec, require, shape_of
from pdp_export.encoding.expressions import Expression, Payload, blank, cast, shape_constant, step
from pdp_export.encoding.zeros import positive_zeros

GROUPS = {2: 1, 4: 2, 8: 4, 16: 4}
"""Bits of a place, by the size of a group."""
_RANKS = (2, 3, 4, 5)


def groups(values: Array) -> tuple[int, int, int] | None:
    """Return (n, m, axis) of the cheapest groups that fit, or None: no axis has regular zeros.

    Axis 1 holds input channels in PyTorch's layout, axis 0 where an exporter transposed a matrix.
    """
    found = []
    for axis in (1, 0):
        for m, bits in GROUPS.items():
            if values.ndim < _RANKS[0] or values.shape[axis] % m or not values.size:
                continue
            n = int(np.count_nonzero(_blocks(values, m, axis), axis=1).max())
            cost = n * (bits + 8 * values.dtype.itemsize) / m
            if 0 < n < m:
                found.append((cost, (n, m, axis)))
    return min(found)[1] if found else None


def encode(values: Array) -> Code:
    """Encode a tensor that `groups` accepts. Every group keeps n places; unused ones hold zero.

    ``values`` is (groups, n), ``places`` their packed places. The places of a group are distinct and ascending.

    Raises:
        ValueError: the zeros are not regular.
    """
    chosen = groups(values)
    if chosen is None:
        raise ValueError("no axis has at most n of every m values nonzero")
    n, m, axis = chosen
    blocks = positive_zeros(_blocks(values, m, axis))
    places = np.sort(np.argsort(blocks == 0, axis=1, kind="stable")[:, :n], axis=1)  # (groups, n)
    kept = np.take_along_axis(blocks, places, axis=1)
    packed = fields.pack(places.ravel(), GROUPS[m])
    return Code("nm", {"places": packed, "values": kept}, values.shape, {"m": m, "axis": axis})


def decode(code: Code) -> Array:
    """Return the tensor.

    Raises:
        ValueError: places repeat or lie outside of a group, or the values do not fill the shape.
    """
    values, m = code.arrays["values"], code.parameters["m"]
    moved = _moved(code.shape, code.parameters["axis"])
    require(m in GROUPS and values.ndim == 2, "the values are no groups")  # noqa: PLR2004
    require(
        len(values) * m == prod(code.shape) and moved[-1] % m == 0, f"{len(values)} groups do not fill {code.shape}"
    )
    places = fields.unpack(code.arrays["places"], GROUPS[m], values.size).reshape(values.shape).astype(np.int64)
    require((places < m).all() and (np.diff(places, axis=1) > 0).all(), "places repeat or lie outside of a group")
    blocks = np.zeros((len(values), m), values.dtype)
    np.put_along_axis(blocks, places, values, axis=1)
    return np.moveaxis(blocks.reshape(moved), -1, code.parameters["axis"]).copy()


def graph(code: Code) -> Expression:
    """Return ``Transpose(Reshape(ScatterElements(zeros, places, values), moved shape))``."""
    values, m, axis = code.arrays["values"], code.parameters["m"], code.parameters["axis"]
    found = cast(fields.plane("places", GROUPS[m], values.size), "int32")
    places = step("Reshape", found, shape_constant(values.shape))
    space = blank((len(values), m), values.dtype)
    blocks = step("ScatterElements", space, places, Payload("values"), axis=1)
    space_shape = shape_constant(_moved(code.shape, axis), "moved")
    shaped = step("Reshape", blocks, space_shape)
    rank = len(code.shape)
    if axis == rank - 1:
        return shaped
    order = list(range(rank - 1))
    order.insert(axis, rank - 1)
    return step("Transpose", shaped, perm=tuple(order))


def _blocks(values: Array, m: int, axis: int) -> Array:
    return np.moveaxis(values, axis, -1).reshape(-1, m)


def _moved(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :], shape[axis])


def _predicted(values: Array) -> int | None:
    chosen = groups(values)
    if chosen is None:
        return None
    n, m, _ = chosen
    kept = values.size // m * n
    return kept * int(values.dtype.itemsize) + fields.packed_bytes(kept, GROUPS[m])


def _samples() -> Iterator[Code]:
    for m, bits in GROUPS.items():
        for axis in (0, 1):
            for rank in _RANKS:
                for count in (8, 1):  # with and without a cut
                    arrays = {
                        "places": fields.pack(np.zeros(count, np.uint8), bits),
                        "values": np.ones((count, 1), np.float32),
                    }
                    shape = tuple(m if i == axis else count if i == 1 - axis else 1 for i in range(rank))
                    yield Code("nm", arrays, shape, {"m": m, "axis": axis})


def _rebuild(sample: Code, arrays: Mapping[str, Array], constants: Mapping[str, Array]) -> Code:
    moved, axis = shape_of(constants["moved"]), sample.parameters["axis"]
    shape = (*moved[:axis], moved[-1], *moved[axis:-1])
    return Code("nm", arrays, shape, sample.parameters)


CODEC = Codec(encode, decode, _predicted, graph, _samples, _rebuild)
