"""bitmask and bitmask2: one bit per weight that says whether it is nonzero, and the nonzero values in order.

Cost: 1 + (1 - s) V bits per weight at a share s of zeros (V = bits of a value). bitmask2 stores the mask itself in
this way, one bit per byte of the mask and the bytes that are not zero: 1/8 + (1 - s^8) + (1 - s) V bits for zeros
that lie at random. Decoding needs no search: the value of a weight is found by its rank (`rank.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pdp_export.encoding.code import Array, Code, Codec, require, with_shape
from pdp_export.encoding.expressions import Expression, Payload, cut, flatten, shaped
from pdp_export.encoding.rank import at_rank
from pdp_export.encoding.zeros import positive_zeros


def encode(values: Array) -> Code:
    """Encode a tensor of any shape and dtype.

    ``mask`` (ceil(n / 8),): bit j of byte i, least significant first, for element 8 i + j. ``values`` (1 + nnz,):
    the first is zero and stands for every cleared bit, so that decoding is one gather.
    """
    mask, kept = _parts(values)
    return Code("bitmask", {"mask": mask, "values": kept}, values.shape)


def encode_twice(values: Array) -> Code:
    """Encode with a mask of the mask: ``top`` has a bit per mask byte, ``mask`` a zero and the bytes that are not."""
    mask, kept = _parts(values)
    top, some = _parts(mask)
    return Code("bitmask2", {"top": top, "mask": some, "values": kept}, values.shape)


def decode(code: Code) -> Array:
    """Return the tensor.

    Raises:
        ValueError: a mask has another length or another number of set bits than shape and values ask for.
    """
    size = int(np.prod(code.shape, dtype=np.int64))
    mask = code.arrays["mask"]
    if "top" in code.arrays:
        mask = _spread(code.arrays["top"], mask, -(-size // 8))
    return _spread(mask, code.arrays["values"], size).reshape(code.shape)


def graph(code: Code) -> Expression:
    """Return ``Reshape(Gather(values, max(0, rank(mask))), shape)``."""
    size = int(np.prod(code.shape, dtype=np.int64))
    mask: Expression = Payload("mask")
    if "top" in code.arrays:
        mask = _trimmed(at_rank(mask, Payload("top")), -(-size // 8))
    gathered = at_rank(Payload("values"), mask)
    return shaped(_trimmed(gathered, size) if size % 8 else gathered, code.shape)


def _trimmed(found: Expression, size: int) -> Expression:
    return cut(flatten(found), 0, size) if size % 8 else flatten(found)


def _parts(values: Array) -> tuple[Array, Array]:
    flat = values.ravel()
    nonzero = flat != 0
    kept = np.concatenate([np.zeros(1, flat.dtype), positive_zeros(flat[nonzero])])
    return np.packbits(nonzero, bitorder="little"), kept


def _spread(mask: Array, values: Array, size: int) -> Array:
    require(mask.shape == (-(-size // 8),), f"a mask of {mask.size} bytes does not belong to {size} elements")
    bits = np.unpackbits(mask, count=size, bitorder="little")
    ranks = np.cumsum(bits, dtype=np.int64)
    nonzeros = int(ranks[-1]) if size else 0
    fits = values.shape == (1 + nonzeros,) and values[0] == 0
    require(fits, f"{values.size - 1} values do not belong to {nonzeros} set bits")
    spread: Array = values[ranks * bits]
    return spread


def _predicted(values: Array) -> int:
    return -(-values.size // 8) + (1 + int(np.count_nonzero(values))) * int(values.dtype.itemsize)


def _predicted_twice(values: Array) -> int:
    mask = np.packbits(values.ravel() != 0, bitorder="little")
    return _predicted(mask) + (1 + int(np.count_nonzero(values))) * int(values.dtype.itemsize)


def _samples() -> Iterator[Code]:
    for size in (64, 7):
        yield encode(np.ones(size, np.float32))


def _samples_twice() -> Iterator[Code]:
    for size in (64, 8, 7, 63):
        yield encode_twice(np.ones(size, np.float32))


CODEC = Codec(encode, decode, _predicted, graph, _samples, with_shape)
TWICE = Codec(encode_twice, decode, _predicted_twice, graph, _samples_twice, with_shape)
