"""Decodes the compact weight forms of MNN: nonzero values with indices, float16, and integer codes.

Source: ``ConvolutionCommon::load`` of MNN 3.6. In every bit-packed field the first bit is the highest of its byte.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdp_export.runtimes.mnn_schema import Quantized
from pdp_export.runtimes.mnn_table import DamagedError, FlatTable

Array = np.ndarray[Any, Any]

_CODES, _SPARSE_CODES, _HALF, _BYTES = 1, 2, 3, 4
_MAX_RANK = 4
_MAX_VALUES = 1 << 34


@dataclass(frozen=True)
class Stored:
    """Decoded values; `stored_dtype` and `stored_bytes` (indices and scales included) are those of the file."""

    values: Array
    stored_dtype: str
    encoding: str
    stored_bytes: int

    def with_values(self, values: Array) -> Stored:
        """Return the same with other values."""
        return dataclasses.replace(self, values=values)


def decode(table: FlatTable) -> Stored:
    """Return the flat weight of an IDSTQuan table.

    Raises:
        DamagedError: an index outside of the weight, missing bytes, or a form that is none of MNN's.
    """
    index, alpha = table.array(Quantized.INDEX, "uint32"), table.array(Quantized.ALPHA, "float32")
    if index is not None:
        return _sparse(index, alpha, table.number(Quantized.WEIGHT_SIZE, "uint32"))
    buffer = table.array(Quantized.BUFFER, "int8")
    if buffer is None:
        raise DamagedError("a compressed weight without bytes")
    form, raw = table.number(Quantized.TYPE), buffer.tobytes()
    if form == _HALF:
        return Stored(np.frombuffer(raw, np.float16), "float16", "dense", len(raw))
    if form not in (_CODES, _SPARSE_CODES, _BYTES) or alpha is None or not alpha.size:
        raise DamagedError(f"weight form {form} with {0 if alpha is None else alpha.size} scales")
    wide = bool(table.number(Quantized.SHAPE_INT32, "bool"))
    codes, bits = _integer_codes(raw, form, wide, alpha)
    values = _dequantized(codes, alpha, table)
    sparse = form == _SPARSE_CODES
    return Stored(values, f"int{bits}", "sparse" if sparse else "dense", len(raw) + alpha.nbytes)


def _sparse(index: Array, alpha: Array | None, size: int) -> Stored:
    """Expand float values at increasing flat positions; four bytes each for value and position."""
    if alpha is None or alpha.size != index.size or index.size > size or size > _MAX_VALUES:
        raise DamagedError(f"{index.size} indices, {0 if alpha is None else alpha.size} values, {size} weights")
    if index.size and (int(index[-1]) >= size or (np.diff(index.astype(np.int64)) <= 0).any()):
        raise DamagedError("the indices of a sparse weight are not increasing or leave the weight")
    values = np.zeros(size, np.float32)
    values[index] = alpha
    return Stored(values, "float32", "sparse", index.nbytes + alpha.nbytes)


def _integer_codes(raw: bytes, form: int, wide: bool, alpha: Array) -> tuple[Array, int]:
    if form == _BYTES:
        return np.frombuffer(raw, np.int8), 8
    shape, position = _shape(raw, wide)
    return _dense_codes(raw, position, shape) if form == _CODES else _sparse_codes(raw, position, shape, alpha)


def _dense_codes(raw: bytes, position: int, shape: tuple[int, ...]) -> tuple[Array, int]:
    """Return a code per weight: a table of values, then packed positions in it."""
    values, position = _value_table(raw, position)
    bits = max(1, (len(values) - 1).bit_length())
    return values[_packed(raw, position, int(np.prod(shape)), bits)], bits


def _sparse_codes(raw: bytes, position: int, shape: tuple[int, ...], alpha: Array) -> tuple[Array, int]:
    """Return codes stored as steps between the nonzero ones; the rest is the code of zero of its channel."""
    count, step_bits = struct.unpack_from("<IB", raw, position)
    position += 5
    steps = _packed(raw, position, count, step_bits)
    position += -(-count * step_bits // 8)
    values, position = _value_table(raw, position)
    bits = max(1, (len(values) - 1).bit_length())
    codes = np.zeros(shape, np.int8)
    if alpha.size == 2 * shape[0]:
        minimum, scale = alpha[::2].astype(np.float64), alpha[1::2].astype(np.float64)
        lowest = -(1 << (bits - 1))
        safe = np.where(scale > 1e-6, scale, 1)  # noqa: PLR2004  MNN's own limit for a usable scale
        zero = np.where(safe == scale, np.round(-minimum / safe), 0) + lowest
        codes[...] = zero.astype(np.int8).reshape(-1, *(1,) * (len(shape) - 1))
    codes.reshape(-1)[np.cumsum(steps)] = values[_packed(raw, position, count, bits)]
    return codes.reshape(-1), bits


def _shape(raw: bytes, wide: bool) -> tuple[tuple[int, ...], int]:
    rank = raw[0]
    if not 0 < rank <= _MAX_RANK:
        raise DamagedError(f"a compressed weight of rank {rank}")
    layout = f"<{rank}{'I' if wide else 'H'}"
    shape = struct.unpack_from(layout, raw, 1)
    if int(np.prod(shape, dtype=np.float64)) > _MAX_VALUES:
        raise DamagedError(f"a compressed weight of shape {shape}")
    return shape, 1 + struct.calcsize(layout)


def _value_table(raw: bytes, position: int) -> tuple[Array, int]:
    count = raw[position] or 256
    table = np.frombuffer(raw, np.int8, count, position + 1)
    return np.sort(table), position + 1 + count


def _packed(raw: bytes, position: int, count: int, bits: int) -> Array:
    if not 1 <= bits <= 8:  # noqa: PLR2004  codes and steps are bytes at most
        raise DamagedError(f"codes of {bits} bits")
    size = -(-count * bits // 8)
    packed = np.frombuffer(raw, np.uint8, size, position)
    flags = np.unpackbits(packed)[: count * bits].reshape(count, bits)
    return flags @ (1 << np.arange(bits - 1, -1, -1))


def _dequantized(codes: Array, alpha: Array, table: FlatTable) -> Array:
    """Return code * scale + minimum per block of weights; symmetric forms have no minimum."""
    minimum_code, factor = table.number(Quantized.MINIMUM), table.number(Quantized.SCALE, "float32")
    old = table.number(Quantized.TYPE) == _BYTES and minimum_code == 0 and abs(factor) < 1e-6  # noqa: PLR2004  as MNN
    asymmetric = bool(table.number(Quantized.READ_TYPE)) or old
    pairs = alpha.reshape(-1, 2) if asymmetric else np.stack([np.zeros_like(alpha), alpha], axis=1)
    minimum, scale = pairs[:, :1].copy(), pairs[:, 1:].copy()
    lowest = minimum_code or -128
    if asymmetric and lowest < 0:
        minimum -= np.float32(lowest) * scale
    if not table.number(Quantized.SCALE_IS_INTEGER, "bool") and not old:
        minimum, scale = minimum * np.float32(factor), scale * np.float32(factor)
    rows = codes.reshape(len(pairs), -1).astype(np.float32)
    values: Array = (rows * scale + minimum).reshape(-1)
    return values
