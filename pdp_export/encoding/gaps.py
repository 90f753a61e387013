"""gap3 to gap8: the nonzero values of a tensor and the distance of each from the one before, in 3 to 8 bits.

Cost: N + V bits per nonzero (V = bits of a value), plus one filler of N + V bits per 2^N - 1 zeros in a row. Short
gaps with fillers are those of Deep Compression (Han et al. 2016, arXiv 1510.00149, figure 2). The best width follows
the density: about 6 bits where one weight in ten is left, 8 where one in thirty is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pdp_export.encoding import fields
from pdp_export.encoding.code import Array, Code, Codec, require, with_shape
from pdp_export.encoding.expressions import Expression, axis, scattered, step
from pdp_export.encoding.zeros import positions_or_first, positive_zeros

WIDTHS = (3, 4, 5, 6, 7, 8)


def encode(values: Array, width: int = 8) -> Code:
    """Encode a tensor of any shape and dtype.

    The position of entry i is the sum of gaps 0 to i; positions never repeat. An entry whose value is zero is a filler
    that carries the position on where a gap exceeds ``2**width - 1``. A tensor without nonzeros keeps one explicit
    zero, so that no array is empty; an empty tensor has no entries.
    """
    flat, longest = positive_zeros(values).ravel(), (1 << width) - 1
    steps = _steps(flat)
    fillers = _fillers(steps, longest)
    ends = np.cumsum(fillers + 1) - 1  # (nnz,) entry that holds each nonzero
    gaps = np.full(ends[-1] + 1 if ends.size else 0, longest, np.int64)
    kept = np.zeros(gaps.size, flat.dtype)
    gaps[ends] = steps - longest * fillers
    kept[ends] = flat[np.cumsum(steps)]
    arrays = {**fields.split(gaps, width, "gaps"), "values": kept}
    return Code(f"gap{width}", arrays, values.shape, {"width": width})


def decode(code: Code) -> Array:
    """Return the tensor.

    Raises:
        ValueError: gaps and values disagree in length, a position repeats or lies outside the shape.
    """
    values, width = code.arrays["values"], code.parameters["width"]
    require(values.ndim == 1, "the values are no list")
    gaps = fields.join(code.arrays, width, "gaps", values.size)
    size = int(np.prod(code.shape, dtype=np.int64))
    positions = np.cumsum(gaps)
    require(not positions.size or positions[-1] < size, f"position {positions[-1:]} is outside of {size} elements")
    require(gaps[1:].all(), "a position repeats")
    flat = np.zeros(size, values.dtype)
    flat[positions] = values
    return flat.reshape(code.shape)


def predicted_bytes(values: Array, width: int = 8) -> int:
    """Return exactly ``encode(values, width).nbytes`` without building the code."""
    steps = _steps(values.ravel())
    entries = steps.size + int(_fillers(steps, (1 << width) - 1).sum())
    return entries * int(values.dtype.itemsize) + fields.split_bytes(entries, width)


def graph(code: Code) -> Expression:
    """Return ``Reshape(ScatterElements(zeros, CumSum(gaps), values), shape)``."""
    values = code.arrays["values"]
    gaps = fields.join_graph(code.parameters["width"], "gaps", values.size)
    return scattered(step("CumSum", gaps, axis(0)), code.shape, values.dtype)


def _samples(width: int) -> Iterator[Code]:
    for entries in (8, 4, 2, 1):
        yield encode(np.ones(entries, np.float32), width)


def codec(width: int) -> Codec:
    """Return the codec of one width."""
    return Codec(
        encode=lambda values: encode(values, width),
        decode=decode,
        predicted_bytes=lambda values: predicted_bytes(values, width),
        graph=graph,
        samples=lambda: _samples(width),
        rebuild=with_shape,
    )


def _steps(flat: Array) -> Array:
    return np.diff(positions_or_first(flat), prepend=0)


def _fillers(steps: Array, longest: int) -> Array:
    fillers: Array = np.maximum(steps - 1, 0) // longest
    return fillers
