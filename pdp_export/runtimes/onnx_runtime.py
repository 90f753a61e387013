"""Opens .onnx files with ONNX Runtime; the twin of `converters/onnx_export.py`.

What a file holds is read from its own bytes (`onnx_file`, `onnx_constants`); what it computes, by ONNX Runtime.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.encoding.codecs import SPARSE_KEY
from pdp_export.errors import NotRunnableError, UsageError
from pdp_export.onnx_external import damaged
from pdp_export.results import Execution, FileFacts, StoredWeight, TensorFacts, TensorSpec
from pdp_export.runtimes.onnx_constants import Constants
from pdp_export.runtimes.onnx_file import graphs, read
from pdp_export.runtimes.onnx_quantized import SATURATION, broadcast, overflows, scales

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto
    from onnxruntime import InferenceSession, SessionOptions

Array = np.ndarray[Any, Any]

NAME = "onnx"
_IMAGE_RANK = 4
_DIGITS = 9


def version() -> str:
    """Return the version of ONNX Runtime."""
    return metadata.version("onnxruntime")


def execution() -> Execution:
    """Return that ONNX Runtime itself runs files here."""
    return Execution(by=f"ONNX Runtime {version()}")


def describe(path: Path) -> FileFacts:
    """Return what the file holds, read from its own bytes: every constant with its encoding, zeros and stored bytes.

    Raises:
        FileError: for a truncated, damaged, foreign or self-contradicting file.
    """
    file = read(path)
    model = file.model
    constants = Constants(model, path)
    scaled = scales(model.graph, constants.plain)
    tensors = tuple(
        TensorFacts(
            name=constant.name,
            shape=constant.values.shape,
            dtype="float32" if constant.name in scaled and constant.values.ndim > 1 else constant.dtype.name,
            stored_dtype=constant.values.dtype.name,
            encoding=constant.encoding,
            zeros=constant.values.size - int(np.count_nonzero(constant.values)),
            elements=constant.values.size,
            stored_bytes=constant.stored_bytes,
        )
        for constant in constants
    )
    inputs, outputs = _signature(model, path)
    metadata = {item.key: item.value for item in model.metadata_props}
    lost = _declared_sparse(metadata) - sum(tensor.encoding != "dense" for tensor in tensors)
    return FileFacts(
        format=NAME,
        file_bytes=file.file_bytes,
        inputs=inputs,
        outputs=outputs,
        tensors=tensors,
        operators=_operators(model.graph),
        metadata=metadata,
        notes=_notes(model, constants.shared_bytes, max(lost, 0)),
        expanded=lost > 0,
    )


def weights(path: Path) -> list[StoredWeight]:
    """Return every decoded weight of rank >= 2, floats and integers with a scale, sorted by name, in PyTorch layout.

    A matrix that only serves as right operand of MatMul or Gemm is stored as (in, out) and transposed back to
    (C_out, C_in); Conv and ConvTranspose share the layout of PyTorch.

    Raises:
        FileError: for a truncated, damaged, foreign or self-contradicting file.
    """
    model = read(path).model
    transposed = _transposed(model.graph)
    constants = Constants(model, path)
    scaled = scales(model.graph, constants.plain)
    found = []
    for constant in constants:
        scale = scaled.get(constant.name)
        if constant.values.ndim > 1 and (constant.values.dtype.kind == "f" or scale is not None):
            stretched = broadcast(*scale, constant.values.ndim) if scale is not None else None
            weight = StoredWeight(constant.name, constant.values, constant.encoding, stretched)
            found.append(_as_torch(weight) if constant.name in transposed else weight)
    return sorted(found, key=lambda weight: weight.name)


def remarks(path: Path) -> tuple[str, ...]:
    """Return what ONNX Runtime's checker says about accelerators of phones, and whether int8 is exact here."""
    from pdp_export.runtimes import onnx_mobile

    model = read(path).model
    constants = Constants(model, path)
    exact = not overflows(model.graph, constants, constants.plain)
    return (*onnx_mobile.remarks(path), *(() if exact else (SATURATION,)))


def open_session(path: Path, threads: int = 1) -> OnnxSession:
    """Open the file in ONNX Runtime on the CPU, with `threads` threads that sleep between runs.

    Raises:
        NotRunnableError: an operator that this build of ONNX Runtime does not have.
        FileError: for a truncated, damaged or foreign file.
    """
    file = read(path)
    inputs, outputs = _signature(file.model, path)
    for _ in Constants(file.model, path):  # ONNX Runtime would meet codes that lie only in the first run
        pass
    return OnnxSession(_start(file.source, _options(threads), path), inputs, outputs)


def optimized_operators(path: Path) -> dict[str, int]:
    """Return the operators that ONNX Runtime really runs, after its own optimisation of the graph.

    A decoder that shows up here would be evaluated in every run.
    """
    import onnx

    source = read(path).source
    options = _options(1)
    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        _start(source, options, path)
        return _operators(onnx.ModelProto.FromString(optimized.read_bytes()).graph)


class OnnxSession:
    """A file opened in ONNX Runtime; arrays are in the file's own layout and dtype."""

    def __init__(
        self, session: InferenceSession, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._session = session

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch and return every output by name.

        Raises:
            UsageError: a missing or unknown input, or a shape or dtype that the file does not accept.
            NotRunnableError: ONNX Runtime gave up, for example for want of memory.
        """
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        names = [spec.name for spec in self.outputs]
        try:
            values = self._session.run(names, dict(inputs))
        except (state.InvalidArgument, ValueError, RuntimeError) as error:
            raise UsageError(
                f"ONNX Runtime does not accept these inputs: {_first_line(error)}",
                where=", ".join(f"{name} {array.dtype} {array.shape}" for name, array in inputs.items()),
                hint=f"give {', '.join(f'{spec.name} {spec.dtype} {spec.shape}' for spec in self.inputs)}",
            ) from error
        except (state.Fail, state.RuntimeException, state.NotImplemented) as error:
            raise NotRunnableError(f"ONNX Runtime {version()} stopped: {_first_line(error)}") from error
        return dict(zip(names, values, strict=True))


def _options(threads: int) -> SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # fatal only: every failure is raised as an exception too
    return options


def _start(source: bytes | str, options: SessionOptions, path: Path) -> InferenceSession:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except (
        state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented,
        state.RuntimeException, RuntimeError,
    ) as error:  # fmt: skip
        message = _first_line(error)
        if isinstance(error, state.NotImplemented) or "is not a registered function/op" in message:
            raise NotRunnableError(
                f"ONNX Runtime {version()} cannot run {path.name}: {message}",
                where=path.name,
                hint="upgrade onnxruntime, or replace the operator in the model",
            ) from error
        raise damaged(path, message) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _signature(model: ModelProto, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    constants = {item.name for item in model.graph.initializer}
    inputs = tuple(_spec(value, path) for value in model.graph.input if value.name not in constants)
    return inputs, tuple(_spec(value, path) for value in model.graph.output)


def _spec(value: ValueInfoProto, path: Path) -> TensorSpec:
    """Return the spec of an input or output; a dynamic axis gets the example size 1."""
    from onnx import helper

    if not value.type.HasField("tensor_type"):
        raise damaged(path, f"{value.name!r} is no tensor", where=value.name)
    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except (KeyError, TypeError) as error:
        raise damaged(path, f"{value.name!r} has the unknown type {tensor.elem_type}", where=value.name) from error
    axes = list(tensor.shape.dim)
    return TensorSpec(
        name=value.name,
        shape=tuple(axis.dim_value if axis.HasField("dim_value") else 1 for axis in axes),
        dtype=dtype,
        dynamic={i: axis.dim_param or f"axis{i}" for i, axis in enumerate(axes) if not axis.HasField("dim_value")},
        layout="NCHW" if len(axes) == _IMAGE_RANK else "any",
    )


def _operators(graph: GraphProto) -> dict[str, int]:
    nodes = (node for inner in graphs(graph) for node in inner.node)
    counts = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes)
    return dict(sorted(counts.items()))


def _declared_sparse(metadata: Mapping[str, str]) -> int:
    """Return how many weights were written sparsely, as far as the file says."""
    value = metadata.get(SPARSE_KEY, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < _DIGITS else 0


def _notes(model: ModelProto, shared_bytes: int, lost: int) -> tuple[str, ...]:
    opsets = ", ".join(f"{item.domain or 'ai.onnx'} {item.version}" for item in model.opset_import)
    notes = [f"opset {opsets}, IR version {model.ir_version}"]
    if shared_bytes:
        notes.append(f"{shared_bytes} bytes of tables shared by the sparse weights")
    if lost:
        notes.append(
            f"weights are dense again: {lost} were written sparsely, then something expanded them (an optimizer?)"
        )
    return tuple(notes)


def _as_torch(weight: StoredWeight) -> StoredWeight:
    scale = weight.scale.T if weight.scale is not None else None
    return StoredWeight(weight.name, np.ascontiguousarray(weight.values.T), weight.encoding, scale)


def _transposed(graph: GraphProto) -> set[str]:
    """Return the names that only serve as (in, out) operands of MatMul and Gemm."""
    right: set[str] = set()
    other: set[str] = set()
    widened = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input
    }
    for inner in graphs(graph):
        for node in inner.node:
            if node.op_type == "DequantizeLinear":
                continue
            for position, name in enumerate(node.input):
                straight = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
                multiplies = node.op_type in ("MatMul", "Gemm") and position == 1 and not straight
                (right if multiplies else other).add(widened.get(name, name))
    return right - other
