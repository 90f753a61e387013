"""Decodes the constant values of an ML Program: from weight.bin or from the program's own bytes, numpy only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pdp_export.errors import FileError
from pdp_export.runtimes.coreml_proto import type_name
from pdp_export.runtimes.mil.weight_file import TYPES, Array, Blob, WeightFile, require_possible

# Opens a weight file by the name that the program uses for it.
OpenWeights = Callable[[str], WeightFile]
Constant = Array | str | tuple[str, ...]
"""A tensor, or text: one string, or a vector of them."""

_INTEGERS = {"INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64"}


def kind_of(value: Any) -> str:
    """Return MIL's name of the element type of a ``Value`` message, for example ``FLOAT16``."""
    return type_name(value.type.tensorType.dataType)


def shape_of(tensor_type: Any) -> tuple[int, ...]:
    """Return the shape of a MIL tensor type; a dimension that is open is -1."""
    return tuple(
        dimension.constant.size if dimension.HasField("constant") else -1 for dimension in tensor_type.dimensions
    )


def fixed_shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of a constant.

    Raises:
        FileError: for a shape that is open.
    """
    shape = shape_of(value.type.tensorType)
    if any(size < 0 for size in shape):
        raise FileError(f"a constant of the program has an open shape {list(shape)}")
    return shape


def decode(value: Any, weights: OpenWeights) -> Constant:
    """Return a constant as an array of its declared shape (sub-byte integers widened to uint8 or int8), or as text.

    Raises:
        FileError: for bytes that do not match the declared type and shape, or a type that is not decoded here.
    """
    if value.WhichOneof("value") == "immediateValue" and value.immediateValue.WhichOneof("value") == "list":
        return _list(value.immediateValue.list, weights)
    kind = kind_of(value)
    if kind == "STRING":
        return _text(value)
    if kind == "BOOL":
        return _truths(value)
    if value.HasField("blobFileValue"):
        return blob_of(value, weights).tensor(fixed_shape_of(value))
    return _immediate_tensor(value, kind)


def blob_of(value: Any, weights: OpenWeights) -> Blob:
    """Return the raw bytes of a numeric constant.

    Raises:
        FileError: for a type that is not decoded here, or damage.
    """
    kind = kind_of(value)
    if kind not in TYPES:
        raise FileError(f"a constant of the program has type {kind}, which is not decoded here")
    if value.HasField("blobFileValue"):
        return weights(value.blobFileValue.fileName).blob(value.blobFileValue.offset, kind)
    data = _immediate_bytes(value, kind)
    return Blob(kind, data, data.size, "the program")


def _immediate_tensor(value: Any, kind: str) -> Array:
    if kind in {"INT64", "UINT64", "FLOAT64"}:
        tensor = value.immediateValue.tensor
        numbers = tensor.longInts.values if tensor.HasField("longInts") else tensor.doubles.values
        return _shaped(np.array(numbers, np.float64 if kind == "FLOAT64" else np.int64), value, kind)
    return blob_of(value, lambda _name: _no_file()).tensor(fixed_shape_of(value))


def _immediate_bytes(value: Any, kind: str) -> Array:
    """Return the raw bytes of a value written inside the program, in the layout that weight.bin has."""
    tensor = value.immediateValue.tensor
    if tensor.HasField("floats"):
        return np.array(tensor.floats.values, dtype=TYPES[kind].dtype if kind == "FLOAT16" else "<f4").view(np.uint8)
    if tensor.HasField("bytes"):
        return np.frombuffer(tensor.bytes.values, dtype=np.uint8)
    if tensor.HasField("ints") and kind in _INTEGERS:
        numbers = np.array(tensor.ints.values, dtype=np.int64)
        stored = numbers.astype(TYPES[kind].dtype)
        if (stored != numbers).any():
            raise FileError(f"a constant of the program holds numbers beyond its type {kind}")
        return stored.view(np.uint8)
    if tensor.WhichOneof("value") is None or not tensor.ListFields():
        return np.zeros(0, np.uint8)
    raise FileError(f"a constant of the program has its {kind} values in a form that is not decoded here")


def _truths(value: Any) -> Array:
    tensor = value.immediateValue.tensor
    data = np.frombuffer(tensor.bytes.values, np.uint8) if tensor.HasField("bytes") else tensor.bools.values
    return _shaped(np.array(data, dtype=bool), value, "BOOL")


def _text(value: Any) -> Constant:
    texts = tuple(str(item) for item in value.immediateValue.tensor.strings.values)
    if fixed_shape_of(value):
        return texts
    if len(texts) != 1:
        raise FileError(f"a text of the program has {len(texts)} values")
    return texts[0]


def _list(items: Any, weights: OpenWeights) -> Constant:
    parts = [decode(item, weights) for item in items.values]
    if all(isinstance(part, str) for part in parts):
        return tuple(str(part) for part in parts)
    numbers = [part for part in parts if isinstance(part, np.ndarray) and part.ndim == 0]
    if len(numbers) != len(parts):
        raise FileError("a list of the program holds something else than numbers or texts")
    return np.array(numbers)


def _shaped(data: Array, value: Any, kind: str) -> Array:
    shape = fixed_shape_of(value)
    require_possible(shape, "the program")
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if data.size != count:
        raise FileError(f"a constant of the program has {data.size} values; a {kind} {list(shape)} has {count}")
    return data.reshape(shape)


def _no_file() -> WeightFile:
    raise FileError("a constant of the program names no weight file")
