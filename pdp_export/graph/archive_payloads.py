"""The tensors of a .pt2 archive: each must be raw bytes of exactly the size that its shape claims."""

from __future__ import annotations

import json
import re
from typing import Any

import torch

from pdp_export.errors import FileError, UnsafeFileError

_DTYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2, 28: 2, 29: 1,
                30: 1, 31: 1, 32: 1, 33: 1, 34: 4, 35: 8}  # fmt: skip
"""Bytes per element of torch._export.serde.schema.ScalarType (archive schema 8)."""

_TENSOR_NAME = re.compile(r"[\w.\- ]{1,1000}")
_MAX_JSON_BYTES = 1 << 28


def parse_json(data: bytes, name: str, entry: str) -> Any:
    """Parse one JSON entry.

    Raises:
        FileError: it is no JSON, nested too deeply, or larger than 256 MiB.
    """
    if len(data) > _MAX_JSON_BYTES:
        raise FileError(f"{name} is damaged: {entry} has {len(data)} bytes", where=f"{name}: {entry}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{name} is damaged: {entry} is no JSON ({error})", where=f"{name}: {entry}") from error


def check_payloads(config: Any, prefix: str, sizes: dict[str, int], name: str) -> None:
    """Check the table of weights or constants.

    Args:
        config: The parsed JSON: ``{"config": {name: {path_name, use_pickle, tensor_meta, ...}}}``.
        prefix: What every payload's path starts with.
        sizes: Bytes of every entry of the archive.
        name: The file, for messages.

    Raises:
        UnsafeFileError: a tensor that would be unpickled, that lies outside its folder, or whose
            shape needs more memory than its bytes.
        FileError: anything else that is no such table.
    """
    table = config.get("config") if isinstance(config, dict) else None
    if not isinstance(table, dict):
        raise FileError(f"{name} is damaged: its table of tensors is missing", where=name)
    for tensor, record in table.items():
        where = f"{name}: {tensor!r}"
        if not _TENSOR_NAME.fullmatch(tensor):
            raise UnsafeFileError(f"{name} names a tensor with forbidden characters", where=where)
        if not isinstance(record, dict):
            raise FileError(f"{name} is damaged: no record for a tensor", where=where)
        if record.get("use_pickle") is not False:
            raise UnsafeFileError(
                f"{name} says that a tensor must be unpickled, which runs code; it was not executed",
                where=where,
                hint="ask its author for plain tensors; do not open it with torch.export.load",
            )
        _check_payload(record, prefix, sizes, name, where)


def _check_payload(record: dict[str, Any], prefix: str, sizes: dict[str, int], name: str, where: str) -> None:
    folder, _, start = prefix.rpartition("/")
    path = record.get("path_name")
    if not isinstance(path, str) or not re.fullmatch(rf"{start}\d{{1,9}}", path):
        raise UnsafeFileError(f"{name} stores a tensor under the path {path!r}", where=where)
    stored = sizes.get(f"{folder}/{path}")
    if stored is None:
        raise FileError(f"{name} is truncated: it lacks {folder}/{path}", where=where)
    try:
        meta = record["tensor_meta"]
        width = _DTYPE_BYTES[meta["dtype"]]
        shape, strides = _integers(meta["sizes"]), _integers(meta["strides"])
        (offset,) = _integers([meta["storage_offset"]])
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{name} is damaged: no usable shape for a tensor", where=where) from error
    elements = torch.Size(shape).numel()
    if elements * width > stored or (elements and reach * width > stored):
        raise UnsafeFileError(
            f"{name} claims a tensor of shape {tuple(shape)}, {elements * width} bytes, but stores {stored} bytes",
            where=where,
            hint="the file is damaged or hostile",
        )


def _integers(items: list[Any]) -> list[int]:
    values = [item["as_int"] for item in items]
    if any(type(number) is not int or not 0 <= number < 1 << 62 for number in values):
        raise ValueError("sizes must be plain, non-negative integers")
    return values
