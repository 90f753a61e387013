"""Reads weight.bin, the blob file of a Core ML package, without any library of Apple's.

Layout, little endian, everything aligned to 64 bytes::

    header   u32 number of blobs, u32 version (2), zeros up to 64 bytes
    blob     u32 0xDEADBEEF, u32 type, u64 bytes, u64 position of the data, u64 padding bits, zeros up to 64 bytes
             the data, then zeros up to the next multiple of 64
    ...

A sparse tensor is two blobs: the non-zero values in row-major order, and a mask of one bit per
element, row-major, lowest bit first.
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
PACKED = "UINT1"
_MAX_RANK = 32
_MAX_SIZE = 1 << 40

# MIL's name of a type -> (its number in weight.bin, numpy's type). UINT1 is stored packed, eight to a byte.
TYPES: dict[str, tuple[int, str]] = {
    "FLOAT16": (1, "<f2"),
    "FLOAT32": (2, "<f4"),
    "UINT8": (3, "|u1"),
    "INT8": (4, "|i1"),
    "INT16": (6, "<i2"),
    "UINT16": (7, "<u2"),
    "UINT1": (9, "|u1"),
    "INT32": (14, "<i4"),
    "UINT32": (15, "<u4"),
}
_NAMES = {number: name for name, (number, _) in TYPES.items()}


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
        """Return the values as an array of `shape` (a fresh one, native byte order)."""
        dtype = np.dtype(TYPES[self.kind][1])
        wanted = math.prod(shape) * dtype.itemsize
        if self.kind == PACKED or self.data.size != wanted:
            raise _damaged(self.place, f"holds {self.data.size} bytes; a {self.kind} {list(shape)} has {wanted}")
        _require_possible(shape, self.place)
        return self.data.view(dtype).reshape(shape).astype(dtype.newbyteorder("="))

    def mask(self, shape: tuple[int, ...]) -> Array:
        """Return the bits as a bool array of `shape`: one bit per element, row-major, lowest bit first."""
        count = math.prod(shape)
        if self.data.size != -(-count // 8):
            raise _damaged(self.place, f"has a mask of {self.data.size} bytes for {count} elements")
        bits = np.unpackbits(self.data, bitorder="little")
        if bits[count:].any() or (self.padding_bits and self.padding_bits != bits.size - count):
            raise _damaged(self.place, f"has a mask with bits beyond its {count} elements")
        _require_possible(shape, self.place)
        return bits[:count].reshape(shape).astype(bool)


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


def _require_possible(shape: tuple[int, ...], place: str) -> None:
    """Refuse what numpy cannot represent: an empty tensor may claim any other size."""
    if len(shape) > _MAX_RANK or any(size > _MAX_SIZE for size in shape):
        raise _damaged(place, f"has an impossible shape of {len(shape)} axes")


def _damaged(place: str, what: str) -> FileError:
    return FileError(f"{place} {what}", where=place, hint="the file is damaged or foreign; write it again")
