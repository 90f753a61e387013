"""Reads, edits and writes the flatbuffer of a .tflite model. Needs the extra "litert"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from pdp_export.errors import ConversionError

Array = np.ndarray[Any, Any]

_OPERATOR_NAMES: dict[int, str] = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
_FILE_LIMIT = (1 << 31) - 1
_DTYPES: dict[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT64: np.dtype(np.int64),
}


class AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data starts at a multiple of 16 bytes, as the schema demands and its Python code forgets."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - the generated code's name
        """Write the data vector and the table; return its offset."""
        content = np.frombuffer(self.data, np.uint8).tobytes() if self.data is not None else b""
        if not content:
            return schema.BufferT().Pack(builder)  # type: ignore[no-any-return]
        builder.StartVector(1, len(content), 16)
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)  # type: ignore[no-any-return]


def parse(content: bytes) -> Any:
    """Return the object tree of a model that was just converted (not for files of unknown origin)."""
    return flatbuffer_utils.read_model_from_bytearray(content)


def pack(model: Any) -> bytes:
    """Return the bytes of the model, the same for the same model.

    Raises:
        ConversionError: above 2 GiB, the limit of the file format.
    """
    total = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    if total >= _FILE_LIMIT:
        raise ConversionError(
            f"the weights take {total} bytes, a .tflite file holds at most {_FILE_LIMIT}",
            where="targets: litert",
            hint="remove channels first, or use a sparser model",
        )
    model.buffers = [AlignedBuffer(buffer.data) for buffer in model.buffers]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def operator_name(model: Any, operator: Any) -> str:
    """Return the schema's name of an operator, for example ``CONV_2D``."""
    code = flatbuffer_utils.get_builtin_code_from_operator_code(model.operatorCodes[operator.opcodeIndex])
    return _OPERATOR_NAMES.get(code, f"UNKNOWN_{code}")


def operator_code(model: Any, code: int, version: int = 1) -> int:
    """Return the index of a builtin operator in the model's list, adding it if needed."""
    for index, known in enumerate(model.operatorCodes):
        if flatbuffer_utils.get_builtin_code_from_operator_code(known) == code and known.version == version:
            return index
    added = schema.OperatorCodeT()
    added.builtinCode, added.deprecatedBuiltinCode, added.version = code, min(code, 127), version
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def consumers(graph: Any) -> dict[int, list[tuple[Any, int]]]:
    """Return, for each tensor, the operators that read it and the position among their inputs."""
    found: dict[int, list[tuple[Any, int]]] = {}
    for operator in graph.operators:
        for position, tensor in enumerate(operator.inputs or []):
            found.setdefault(tensor, []).append((operator, position))
    return found


def constant(model: Any, tensor: Any) -> Array | None:
    """Return the values of a dense constant tensor, or None for any other tensor."""
    data = model.buffers[tensor.buffer].data
    dtype = _DTYPES.get(tensor.type)
    if data is None or tensor.sparsity is not None or dtype is None:
        return None
    return np.frombuffer(data, dtype).reshape(tuple(tensor.shape) if tensor.shape is not None else ())


def constants(model: Any) -> Iterator[tuple[Any, Any, int, Array]]:
    """Yield (graph, tensor, its index, values) for every dense constant tensor."""
    for graph in model.subgraphs:
        for index, tensor in enumerate(graph.tensors):
            values = constant(model, tensor)
            if values is not None:
                yield graph, tensor, index, values


def add_buffer(model: Any, content: bytes) -> int:
    """Append a buffer and return its index."""
    model.buffers.append(schema.BufferT(np.frombuffer(content, np.uint8)))
    return len(model.buffers) - 1


def add_constant(model: Any, graph: Any, name: str, values: Array) -> int:
    """Append a dense constant tensor and return its index."""
    tensor = schema.TensorT()
    tensor.name = name.encode()
    tensor.shape = list(values.shape)
    tensor.type = next(kind for kind, dtype in _DTYPES.items() if dtype == values.dtype)
    tensor.buffer = add_buffer(model, values.tobytes())
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def set_metadata(model: Any, name: str, content: bytes) -> None:
    """Write one named entry into the model's metadata, replacing one of the same name."""
    kept = [entry for entry in model.metadata or [] if entry.name != name.encode()]
    entry = schema.MetadataT()
    entry.name, entry.buffer = name.encode(), add_buffer(model, content)
    model.metadata = [*kept, entry]


def get_metadata(model: Any, name: str) -> bytes | None:
    """Return one named entry of the model's metadata."""
    for entry in model.metadata or []:
        if entry.name == name.encode():
            return bytes(model.buffers[entry.buffer].data)
    return None
