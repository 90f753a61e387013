"""Reads tables of a FlatBuffer whose bytes are not trusted.

Every offset is followed by the `flatbuffers` package on a plain `bytes` object, so a wrong one ends in an exception
and never outside of the buffer. `refuse_damage` turns those into a FileError.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

from pdp_export.errors import FileError

Array = np.ndarray[Any, Any]

_NUMBERS = {
    "bool": number_types.BoolFlags,
    "int8": number_types.Int8Flags,
    "uint8": number_types.Uint8Flags,
    "int32": number_types.Int32Flags,
    "uint32": number_types.Uint32Flags,
    "int64": number_types.Int64Flags,
    "float32": number_types.Float32Flags,
}


class DamagedError(Exception):
    """The bytes contradict themselves; becomes a FileError that names the file."""


@contextlib.contextmanager
def refuse_damage(name: str) -> Iterator[None]:
    """Raise FileError for `name` when the block runs into bytes that make no sense."""
    try:
        yield
    except (DamagedError, struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        raise FileError(
            f"{name} is truncated, damaged or no MNN file: {error}",
            where=name,
            hint="convert the model again, or check how the file was copied",
        ) from error


class FlatTable:
    """One table; fields are read by their position in the schema, absent ones give the default."""

    def __init__(self, data: bytes, position: int) -> None:
        if not 0 < position < len(data):
            raise DamagedError(f"an offset points to byte {position} of {len(data)}")
        self._data = data
        self._table = Table(data, position)

    @classmethod
    def root(cls, data: bytes) -> FlatTable:
        """Return the table that the first four bytes point to."""
        return cls(data, struct.unpack_from("<I", data)[0])

    def number(self, field: int, kind: str = "int32", default: float = 0) -> Any:
        """Return a scalar field."""
        offset = self._offset(field)
        return self._table.Get(_NUMBERS[kind], self._table.Pos + offset) if offset else default

    def array(self, field: int, kind: str) -> Array | None:
        """Return a vector of scalars as a read-only view of the file, or None when absent."""
        offset = self._offset(field)
        if not offset:
            return None
        view: Array = self._table.GetVectorAsNumpy(_NUMBERS[kind], offset)
        return view

    def text(self, field: int) -> str:
        """Return a string field, "" when absent."""
        offset = self._offset(field)
        return self._text_at(self._table.Pos + offset) if offset else ""

    def texts(self, field: int) -> list[str]:
        """Return a vector of strings."""
        return [self._text_at(position) for position in self._elements(field)]

    def child(self, field: int) -> FlatTable | None:
        """Return a table field, or the member of a union."""
        offset = self._offset(field)
        return FlatTable(self._data, self._table.Indirect(self._table.Pos + offset)) if offset else None

    def children(self, field: int) -> list[FlatTable]:
        """Return a vector of tables."""
        return [FlatTable(self._data, self._table.Indirect(position)) for position in self._elements(field)]

    def _offset(self, field: int) -> int:
        return int(self._table.Offset(4 + 2 * field))

    def _elements(self, field: int) -> range:
        offset = self._offset(field)
        if not offset:
            return range(0)
        start, count = self._table.Vector(offset), self._table.VectorLen(offset)
        if start + 4 * count > len(self._data):
            raise DamagedError(f"a vector of {count} elements at byte {start} exceeds the {len(self._data)} bytes")
        return range(start, start + 4 * count, 4)

    def _text_at(self, position: int) -> str:
        start = self._table.Indirect(position)
        (length,) = struct.unpack_from("<I", self._data, start)
        if start + 4 + length > len(self._data):
            raise DamagedError(f"a string of {length} bytes at byte {start} exceeds the {len(self._data)} bytes")
        return self._data[start + 4 : start + 4 + length].decode("utf-8")
