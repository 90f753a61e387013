"""Reads weight.bin, the blob file of a Core ML package, without any library of Apple's.

Layout, little endian, everything aligned to 64 bytes::

    header   u32 number of blobs, u32 version (2), zeros up to 64 bytes
    blob     u32 0xDEADBEEF, u32 type, u64 bytes, u64 position of the data, u64 padding bits, zeros up to 64 bytes
             the data, then zeros up to the next multiple of 64
    ...

A sparse tensor is two blobs: the non-zero values in row-major order, and a mask of one bit per
element, row-major, lowest bit first. Integers of fewer than eight bits are packed the same way.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.errors import FileError

Array = np.ndarray[Any, Any]

ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<II")
_RECORD = struct.Struct("<IIQQQ")
_MAX_RANK = 32
_MAX_SIZE = 1 << 40


@dataclass(frozen=True)
class StoredType:
    """How weight.bin stores a type: its number, numpy's type of a decoded element, and the bits of a stored one."""

    number: int
    dtype: str
    bits: int


# By MIL's names. Numbers from the enumeration BlobDataType of coremltools' mlmodel/src/MILBlob.
TYPES: dict[str, StoredType] = {
    "FLOAT16": StoredType(1, "<f2", 16),
    "FLOAT32": StoredType(2, "<f4", 32),
    "UINT8": StoredType(3, "|u1", 8),
    "INT8": StoredType(4, "|i1", 8),
    "INT16": StoredType(6, "<i2", 16),
    "UINT16": StoredType(7, "<u2", 16),
    "INT4": StoredType(8, "|i1", 4),
    "UINT1": StoredType(9, "|u1", 1),
    "UINT2": StoredType(10, "|u1", 2),
    "UINT4": StoredType(11, "|u1", 4),
    "UINT3": StoredType(12, "|u1", 3),
    "UINT6": StoredType(13, "|u1", 6),
    "INT32": StoredType(14, "<i4", 32),
    "UINT32": StoredType(15, "<u4", 32),
}
_BYTE = 8
_NAMES = {stored.number: name for name, stored in TYPES.items()}


@dataclass(frozen=True)
class Blob:
    """Raw bytes of one tensor, from weight.bin or from inside the program.

    `kind` is MIL's name of the element type, `data` a uint8 array, `stored_bytes` what it occupies
    with record and padding, `place` where it was found (for error messages).
    """

    kind: str
    data: Array
    stored_bytes: int
    place: str
    padding_bits: int = 0

    def tensor(self, shape: tuple[int, ...]) -> Array:
        """Return the values as an array of `shape` (a fresh one, native byte order); packed integers are widened."""
        stored = TYPES[self.kind]
        count = math.prod(shape)
        require_possible(shape, self.place)
        if self.data.size != -(-count * stored.bits // _BYTE):
            raise _damaged(self.place, f"holds {self.data.size} bytes, not those of a {self.kind} {list(shape)}")
        if stored.bits < _BYTE:
            return self._unpacked(count).reshape(shape)
        dtype = np.dtype(stored.dtype)
        return self.data.view(dtype).reshape(shape).astype(dtype.newbyteorder("="))

    def _unpacked(self, count: int) -> Array:
        bits = TYPES[self.kind].bits
        if self.padding_bits not in (0, self.data.size * _BYTE - count * bits):
            raise _damaged(self.place, f"claims {self.padding_bits} bits of padding behind {count} elements")
        numbers = unpacked(self.data, bits, count, self.place)
        if not self.kind.startswith("INT"):
            return numbers
        return np.where(numbers >= 1 << (bits - 1), numbers.astype(np.int16) - (1 << bits), numbers).astype(np.int8)


def unpacked(data: Array, width: int, count: int, place: str) -> Array:
    """Return `count` unsigned integers of `width` bits (at most 8), packed into bytes from the lowest bit on, as uint8.

    Raises:
        FileError: when the bytes are not exactly those of `count` integers.
    """
    wanted = count * width
    if data.size != -(-wanted // _BYTE):
        raise _damaged(place, f"has {data.size} bytes for {count} elements of {width} bits")
    bits = np.unpackbits(data, bitorder="little")
    if bits[wanted:].any():
        raise _damaged(place, f"has bits beyond its {count} elements")
    if width == 1:
        return bits[:wanted]
    return np.packbits(bits[:wanted].reshape(count, width), axis=1, bitorder="little").reshape(count)


class WeightFile:
    """All blobs of one weight.bin, each checked against the bounds of the file when it is opened.

    Raises:
        FileError: for a truncated, damaged or foreign file.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        try:
            self._bytes = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise _damaged(self._name, f"cannot be read: {error.strerror}") from error
        self._blobs = self._walk()

    def blob(self, offset: int, kind: str) -> Blob:
        """Return the blob whose record starts at `offset`; `kind` is the type the program declares for it."""
        blob = self._blobs.get(offset)
        if blob is None:
            raise _damaged(self._name, f"has no blob at byte {offset}, where the program expects one")
        if blob.kind != kind:
            raise _damaged(blob.place, f"holds {blob.kind}; the program declares {kind}")
        return blob

    def _walk(self) -> dict[int, Blob]:
        size = self._bytes.size
        if size < ALIGNMENT:
            raise _damaged(self._name, f"has {size} bytes, fewer than its header of {ALIGNMENT}")
        count, version = _HEADER.unpack_from(self._bytes.data)
        if version != VERSION:
            raise _damaged(self._name, f"has version {version}; version {VERSION} is read here")
        blobs: dict[int, Blob] = {}
        offset = ALIGNMENT
        for _ in range(count):
            blobs[offset] = self._record(offset)
            offset += blobs[offset].stored_bytes
        if size > offset:
            raise _damaged(self._name, f"has {size - offset} bytes behind its last blob")
        return blobs

    def _record(self, offset: int) -> Blob:
        place, size = f"{self._name} at byte {offset}", self._bytes.size
        if offset + ALIGNMENT > size:
            raise _damaged(place, f"should have a record, but the file ends at byte {size}")
        sentinel, number, length, start, padding = _RECORD.unpack_from(self._bytes.data, offset)
        if sentinel != SENTINEL or start != offset + ALIGNMENT:
            raise _damaged(place, "has no valid record")
        if start + length > size:
            raise _damaged(place, f"holds {length} bytes, but the file ends at byte {size}")
        stored = ALIGNMENT + -(-length // ALIGNMENT) * ALIGNMENT
        return Blob(_NAMES.get(number, f"type {number}"), self._bytes[start : start + length], stored, place, padding)


def require_possible(shape: tuple[int, ...], place: str) -> None:
    """Refuse what numpy cannot represent: an empty tensor may claim any other size."""
    if len(shape) > _MAX_RANK or any(size > _MAX_SIZE for size in shape):
        raise _damaged(place, f"has an impossible shape of {len(shape)} axes")


def _damaged(place: str, what: str) -> FileError:
    return FileError(f"{place} {what}", where=place, hint="the file is damaged or foreign; write it again")
