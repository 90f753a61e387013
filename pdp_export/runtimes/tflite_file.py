"""Reads a .tflite file from its own bytes, trusting none of them. Needs flatbuffers and ai-edge-litert's schema."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.encoding import tflite_csr
from pdp_export.encoding.tflite_layout import WEIGHT_INPUT
from pdp_export.errors import FileError, MissingDependencyError

Array = np.ndarray[Any, Any]

IDENTIFIER = b"TFL3"
_HEADER_BYTES = 8
_NUMPY_DTYPES = frozenset(
    [
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    ]
)
# Operators whose first inputs are read here by position: how many of them there must be.
_INPUTS_NEEDED = dict.fromkeys(WEIGHT_INPUT, 2) | dict.fromkeys(("PAD", "MEAN", "TRANSPOSE", "ADD", "MUL"), 2)
_INPUTS_NEEDED |= dict.fromkeys(("DENSIFY", "DEQUANTIZE"), 1)
# What Python's flatbuffers readers raise when an offset or a length points outside the file.
_DAMAGE = (struct.error, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a graph. `values` is set for constants that numpy can hold, decoded to their full shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str = ""
    stored_bytes: int = 0
    values: Array | None = None


@dataclass(frozen=True)
class Operator:
    """One operator: its schema name, the numbers of its tensors (-1: left out), and its options by name."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """One subgraph; `inputs` and `outputs` are pairs of public name and tensor number, in order."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class TfliteFile:
    """What a .tflite file holds. ``graphs[0]`` is the one that runs."""

    graphs: tuple[Graph, ...]
    metadata: dict[str, bytes] = field(default_factory=dict)
    signature: str | None = None


def read(path: Path) -> TfliteFile:
    """Read and check a file: every offset, every tensor number, every length against its shape.

    Raises:
        FileError: for a missing, truncated, damaged or foreign file.
        MissingDependencyError: without the extra "litert".
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{path.name} cannot be read: {reason}", where=str(path), hint="check the path") from error
    if content[4:_HEADER_BYTES] != IDENTIFIER:
        raise FileError(
            f"{path.name} is not a .tflite file: it lacks the mark {IDENTIFIER.decode()!r} at byte 4",
            where=str(path),
            hint="give a file written by `pdp-export convert --target litert`",
        )
    try:
        return _read(content)
    except _DAMAGE as error:
        raise FileError(
            f"{path.name} is truncated or damaged ({len(content)} bytes): {error}",
            where=str(path),
            hint="write or download the file again",
        ) from error


def _read(content: bytes) -> TfliteFile:
    schema = _schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffers = [_buffer(content, buffer) for buffer in model.buffers]
    codes = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    operators = [_operator_name(codes, code) for code in model.operatorCodes]
    signature = next(iter(model.signatureDefs or []), None)
    graphs = []
    for index, graph in enumerate(model.subgraphs):
        own = signature if signature is not None and signature.subgraphIndex == index else None
        graphs.append(_graph(graph, buffers, operators, own))
    if not graphs:
        raise ValueError("it holds no graph")
    metadata = {_text(entry.name): _pick(buffers, entry.buffer) or b"" for entry in model.metadata or []}
    return TfliteFile(tuple(graphs), metadata, _text(signature.signatureKey) if signature is not None else None)


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingDependencyError(
            "reading .tflite files needs ai-edge-litert and flatbuffers, which are not installed",
            hint="pip install 'pdp-export[litert]'",
        ) from error
    return schema_py_generated


@lru_cache(maxsize=1)
def _dtype_names() -> dict[int, str]:
    return {code: name.lower() for name, code in vars(_schema().TensorType).items() if isinstance(code, int)}


def _buffer(content: bytes, buffer: Any) -> bytes | None:
    """Return a buffer's bytes; files above 2 GiB keep them behind the flatbuffer, by offset and size."""
    if buffer.offset > 1:
        if buffer.offset + buffer.size > len(content):
            raise ValueError(f"a buffer ends at byte {buffer.offset + buffer.size}")
        return content[buffer.offset : buffer.offset + buffer.size]
    return None if buffer.data is None else np.asarray(buffer.data, np.uint8).tobytes()


def _operator_name(codes: dict[int, str], code: Any) -> str:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _text(code.customCode) if code.customCode else codes.get(number, f"UNKNOWN_{number}")


def _graph(graph: Any, buffers: list[bytes | None], operators: list[str], signature: Any) -> Graph:
    tensors = tuple(_tensor(tensor, buffers) for tensor in graph.tensors)
    inputs = _public(graph.inputs, signature.inputs if signature is not None else [], tensors)
    outputs = _public(graph.outputs, signature.outputs if signature is not None else [], tensors)
    nodes = []
    for operator in graph.operators or []:
        options = vars(operator.builtinOptions) if operator.builtinOptions is not None else {}
        reads, writes = _numbers(operator.inputs, tensors, -1), _numbers(operator.outputs, tensors, 0)
        nodes.append(Operator(_pick(operators, operator.opcodeIndex), reads, writes, options))
    _check_order(nodes)
    return Graph(tensors, tuple(nodes), inputs, outputs)


def _check_order(operators: Sequence[Operator]) -> None:
    """Operators are listed in the order they run: none reads what a later one, or it itself, writes."""
    unwritten = Counter(number for operator in operators for number in operator.outputs)
    for operator in operators:
        needed = operator.inputs[: _INPUTS_NEEDED.get(operator.name, 0)]
        if (
            len(needed) < _INPUTS_NEEDED.get(operator.name, 0)
            or -1 in needed
            or any(map(unwritten.get, operator.inputs))
        ):
            raise ValueError(f"operator {operator.name} cannot read tensors {operator.inputs}")
        unwritten.subtract(operator.outputs)


def _public(numbers: Any, entries: Any, tensors: Sequence[Tensor]) -> tuple[tuple[str, int], ...]:
    """Name tensors, in order, as the signature does, else as the graph does."""
    if entries:
        named = _numbers([entry.tensorIndex for entry in entries], tensors, 0)
        return tuple((_text(entry.name), number) for entry, number in zip(entries, named, strict=True))
    return tuple((tensors[number].name, number) for number in _numbers(numbers, tensors, 0))


def _numbers(numbers: Any, tensors: Sequence[Tensor], lowest: int) -> tuple[int, ...]:
    found = tuple(int(number) for number in numbers) if numbers is not None else ()
    if any(not lowest <= number < len(tensors) for number in found):
        raise ValueError(f"it refers to tensors {found}, of {len(tensors)}")
    return found


def _tensor(tensor: Any, buffers: list[bytes | None]) -> Tensor:
    shape = tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()
    if any(size < 0 for size in shape):
        raise ValueError(f"tensor {_text(tensor.name)!r} has shape {shape}")
    data = _pick(buffers, tensor.buffer)
    dtype = _dtype_names().get(tensor.type, f"type_{tensor.type}")
    if data is None:
        return Tensor(_text(tensor.name), shape, dtype)
    if dtype not in _NUMPY_DTYPES:
        return Tensor(_text(tensor.name), shape, dtype, "opaque", len(data))
    values = np.frombuffer(data, np.dtype(dtype))
    if tensor.sparsity is not None:
        sparse = _sparse(shape, tensor.sparsity, values)
        return Tensor(_text(tensor.name), shape, dtype, "sparse", sparse.stored_bytes, tflite_csr.decode(sparse))
    if math.prod(shape) != values.size:
        raise ValueError(f"tensor {_text(tensor.name)!r} of shape {shape} holds {values.size} values")
    return Tensor(_text(tensor.name), shape, dtype, "dense", len(data), values.reshape(shape))


def _sparse(shape: tuple[int, ...], parameters: Any, values: Array) -> tflite_csr.SparseTensor:
    levels = []
    for level in parameters.dimMetadata or []:
        vectors = [
            None if part is None else np.asarray(part.values) for part in (level.arraySegments, level.arrayIndices)
        ]
        levels.append(tflite_csr.Level(int(level.denseSize), *vectors))
    order = tuple(int(axis) for axis in parameters.traversalOrder)
    blocked = tuple(int(axis) for axis in parameters.blockMap) if parameters.blockMap is not None else ()
    return tflite_csr.SparseTensor(shape, order, tuple(levels), values, blocked)


def _pick(items: Sequence[Any], index: int) -> Any:
    if not 0 <= index < len(items):
        raise ValueError(f"it refers to item {index}, of {len(items)}")
    return items[index]


def _text(name: bytes | str | None) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""
