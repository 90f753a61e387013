"""Reads .ort files: what ONNX Runtime's format for phones holds, by ONNX Runtime's own FlatBuffers classes.

FlatBuffers are read in place, so nothing is allocated for a claim; reads outside of the file raise. What a file may
still do is name one place many times: all reads together are held to the size of the file.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.errors import FileError, first_line
from pdp_export.results import FileFacts, TensorFacts, TensorSpec

NAME = "ort"
MAX_FILE_BYTES = (1 << 31) - 1
"""Offsets of a FlatBuffer have 31 bits."""
MAX_ELEMENTS = 1 << 31
"""Of a sparse weight: ONNX Runtime allocates all of them when it loads the file."""
_BROKEN = (struct.error, IndexError, ValueError, TypeError, AttributeError, KeyError, OverflowError)
_TENSOR = 1  # TypeInfoValue.tensor_type


def describe_in_child(path: str) -> dict[str, Any]:
    """Entry point of the child process."""
    return describe(Path(path)).model_dump(mode="json")


def describe(path: Path) -> FileFacts:
    """Return inputs, outputs, operators, metadata and every constant with its encoding ("dense" or "coo").

    A note says whether the installed ONNX Runtime opens the file.

    Raises:
        FileError: for a missing, truncated, damaged or foreign file.
    """
    data = _bytes(path)
    try:
        facts = _Reader(data).facts()
    except _BROKEN as error:
        raise _damaged(path, f"its tables are damaged or truncated ({first_line(error)})") from error
    note = f"ONNX Runtime {metadata.version('onnxruntime')} {_verdict(data)}"
    return facts.model_copy(update={"notes": (*facts.notes, note)})


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileError(f"{path.name} does not exist or is no file", where=path.name, hint="check the path")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise _damaged(path, f"{size} bytes are more than the {MAX_FILE_BYTES} that its offsets reach")
    data = path.read_bytes()
    if data[4:8] != b"ORTM":
        raise _damaged(path, "it does not begin as one")
    return data


def _damaged(path: Path, what: str) -> FileError:
    hint = "write it again: pdp-export convert --ort model.onnx -o FOLDER"
    return FileError(f"{path.name} is not a usable .ort file: {what}", where=path.name, hint=hint)


def _verdict(data: bytes) -> str:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes share no base but this one
        return f"does not open it: {first_line(error)}"
    return "opens it"


class _Reader:
    """One file; `_left` are the bytes and table entries that may still be read."""

    def __init__(self, data: bytes) -> None:
        import_module("onnxruntime.tools.ort_format_model")  # puts the next one on the path
        fbs = import_module("ort_flatbuffers_py.fbs.InferenceSession")
        self._left = len(data)
        self._size = len(data)
        self._session = fbs.InferenceSession.GetRootAs(bytearray(data), 0)

    def facts(self) -> FileFacts:
        """Return what the tables say."""
        model = self._session.Model()
        graph = model.Graph()
        types = {self._text(item.Name()): item for item in self._items(graph.NodeArgsLength(), graph.NodeArgs)}
        inputs = [self._text(name) for name in self._items(graph.InputsLength(), graph.Inputs)]
        outputs = [self._text(name) for name in self._items(graph.OutputsLength(), graph.Outputs)]
        nodes = self._items(graph.NodesLength(), graph.Nodes)
        used = [(self._text(node.Domain()) or "ai.onnx", self._text(node.OpType())) for node in nodes]
        operators = Counter(name if domain == "ai.onnx" else f"{domain}.{name}" for domain, name in used)
        domains = {domain for domain, _ in used}
        imports = self._items(model.OpsetImportLength(), model.OpsetImport)
        opsets = [f"{domain} {item.Version()}" for item in imports if (domain := self._text(item.Domain())) in domains]
        version = self._text(self._session.OrtVersion())
        tensors = tuple(self._tensors(graph))
        constants = {tensor.name for tensor in tensors}
        return FileFacts(
            format=NAME,
            file_bytes=self._size,
            inputs=tuple(self._spec(name, types[name]) for name in inputs if name not in constants),
            outputs=tuple(self._spec(name, types[name]) for name in outputs),
            tensors=tensors,
            operators=dict(sorted(operators.items())),
            metadata={
                self._text(item.Key()): self._text(item.Value())
                for item in self._items(model.MetadataPropsLength(), model.MetadataProps)
            },
            notes=(f"opset {', '.join(opsets)}, .ort format version {version}",),
        )

    def _tensors(self, graph: Any) -> Iterator[TensorFacts]:
        for item in self._items(graph.InitializersLength(), graph.Initializers):
            values = self._array(item)
            shape, name = self._shape(item), self._text(item.Name())
            if values.size != prod(shape):
                raise ValueError(f"tensor {name!r} claims the shape {shape} for {values.size} values")
            yield _facts(name, shape, values, "dense", values.nbytes)
        for item in self._items(graph.SparseInitializersLength(), graph.SparseInitializers):
            values, places = self._array(item.Values()), self._array(item.Indices())
            shape, name = self._shape(item), self._text(item.Values().Name())
            if not values.size <= prod(shape) <= MAX_ELEMENTS:
                raise ValueError(f"tensor {name!r} claims the shape {shape} for {values.size} values")
            yield _facts(name, shape, values, "coo", values.nbytes + places.nbytes)

    def _array(self, tensor: Any) -> np.ndarray[Any, Any]:
        from onnx import helper

        if tensor.StringDataLength():
            return np.zeros(tensor.StringDataLength(), np.uint8)
        self._spend(tensor.RawDataLength())
        raw = tensor.RawDataAsNumpy() if tensor.RawDataLength() else np.zeros(0, np.uint8)
        found: np.ndarray[Any, Any] = raw.view(helper.tensor_dtype_to_np_dtype(tensor.DataType()))
        return found

    def _shape(self, item: Any) -> tuple[int, ...]:
        shape = tuple(int(axis) for axis in self._items(item.DimsLength(), item.Dims))
        if min(shape, default=0) < 0:
            raise ValueError(f"a tensor claims the shape {shape}")
        return shape

    def _spec(self, name: str, item: Any) -> TensorSpec:
        """Return the spec of an input or output; a dynamic axis gets the example size 1."""
        from onnx import helper

        if item.Type().ValueType() != _TENSOR:
            raise ValueError(f"{name!r} is no tensor")
        kind = import_module("ort_flatbuffers_py.fbs.TensorTypeAndShape").TensorTypeAndShape()
        table = item.Type().Value()
        kind.Init(table.Bytes, table.Pos)
        axes = [axis.Value() for axis in self._items(kind.Shape().DimLength(), kind.Shape().Dim)]
        fixed = [axis.DimValue() if axis.DimType() == 1 else 0 for axis in axes]
        return TensorSpec(
            name=name,
            shape=tuple(size or 1 for size in fixed),
            dtype=np.dtype(helper.tensor_dtype_to_np_dtype(kind.ElemType())).name,
            dynamic={i: self._text(axes[i].DimParam()) or f"axis{i}" for i, size in enumerate(fixed) if not size},
        )

    def _items(self, count: int, item: Callable[[int], Any]) -> Iterator[Any]:
        for index in range(count):
            self._spend(1)
            yield item(index)

    def _text(self, text: bytes | None) -> str:
        self._spend(len(text or b""))
        return (text or b"").decode("utf-8")

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError("its tables hold more than the file")


def _facts(
    name: str, shape: tuple[int, ...], values: np.ndarray[Any, Any], encoding: str, stored_bytes: int
) -> TensorFacts:
    elements = prod(shape)
    return TensorFacts(
        name=name, shape=shape, dtype=values.dtype.name, stored_dtype=values.dtype.name, encoding=encoding,
        zeros=elements - int(np.count_nonzero(values)), elements=elements, stored_bytes=stored_bytes,
    )  # fmt: skip
