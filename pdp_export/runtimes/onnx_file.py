"""Reads an ONNX file without trusting it: claimed shapes are held against the bytes that are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pdp_export import onnx_external
from pdp_export.errors import FileError
from pdp_export.onnx_external import damaged

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]  # protobuf ships no types
    from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

MAX_FILE_BYTES = (1 << 31) - 1
"""One protobuf message holds less than 2 GiB, so a larger file is no ONNX model."""


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A model whose tensors all hold their data.

    `source` is what ONNX Runtime opens: the bytes that were checked, or the path if weights lie in a second file.
    `file_bytes` counts both.
    """

    model: ModelProto
    source: bytes | str
    file_bytes: int


def read(path: Path) -> OnnxFile:
    """Return the parsed model after checking every tensor in it.

    Weights in a second file are read if that lies beside `path` (see `onnx_external`); nothing else is opened.

    Raises:
        FileError: the file is missing, empty, truncated, foreign, points elsewhere, or a tensor claims a shape that its
            bytes do not fill.
    """
    data = _bytes(path)
    model = _parse(data, path)
    _check_text(model, path)
    beside = onnx_external.inline(_tensors(model), path)
    for tensor in _tensors(model):
        _check_tensor(tensor, path)
    return OnnxFile(model, str(path) if beside else data, len(data) + beside)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileError(f"{path.name} does not exist or is no file", where=path.name, hint="check the path")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise damaged(path, f"{size} bytes are more than the {MAX_FILE_BYTES} a protobuf message can hold")
    return path.read_bytes()


def _parse(data: bytes, path: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model: ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise damaged(path, "the bytes are truncated or of another format") from error
    if not model.ir_version or not model.opset_import or not model.graph.node:
        raise damaged(path, "it has no IR version, no operator set or no nodes (truncated or of another format)")
    return model


def _check_text(message: Message, path: Path) -> None:
    """Refuse text that is no UTF-8: protobuf hands it out as bytes, and everybody else takes it for a name."""
    for field, value in message.ListFields():
        items = [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_STRING and any(isinstance(item, bytes) for item in items):
            raise damaged(path, f"a {field.name} is no text")
        if field.type == field.TYPE_MESSAGE:
            for item in items:
                _check_text(item, path)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            yield from _constants_of(node)
    for function in model.functions:
        for node in function.node:
            yield from _constants_of(node)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield the graph and every graph inside of its nodes; protobuf itself limits the depth to 100."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs(inner)


def _constants_of(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse: list[SparseTensorProto] = [*attribute.sparse_tensors]
        if attribute.HasField("sparse_tensor"):
            sparse.append(attribute.sparse_tensor)
        for item in sparse:
            yield from (item.values, item.indices)


def _check_tensor(tensor: TensorProto, path: Path) -> None:
    """Refuse shapes that the bytes do not fill (nothing is allocated for a claim)."""
    from onnx import numpy_helper

    name = tensor.name or "(unnamed constant)"
    if any(axis < 0 for axis in tensor.dims):
        raise damaged(path, f"tensor {name!r} claims the shape {tuple(tensor.dims)}", where=name)
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise damaged(path, f"tensor {name!r} does not hold what it claims ({error})", where=name) from error
