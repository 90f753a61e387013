"""Stores pruned weights as sparse tensors, each followed by a DENSIFY operator.

XNNPACK takes a DENSIFY of a sparse constant as its sign to look for sparse kernels. The sparse tensor never feeds a
layer directly (FULLY_CONNECTED crashes in LiteRT 2.3.0) and is never float16 (wrong results in LiteRT 2.1.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pdp_export.converters import litert_graph
from pdp_export.encoding import tflite_csr
from pdp_export.encoding.tflite_layout import WEIGHT_INPUT
from pdp_export.errors import ProofError

Array = np.ndarray[Any, Any]

SPARSE_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "EMBEDDING_LOOKUP")
_TABLE_BYTES = 512  # at least what a second tensor, its levels and a DENSIFY operator add to the file
_DENSIFY_SINCE = (2, 2, 0)  # the runtime version that introduced DENSIFY


def encode_weights(model: Any) -> int:
    """Store every weight sparsely whose file shrinks by it; return how many.

    The sparse constant keeps the weight's name; the tensor that DENSIFY fills is called ``<name>/dense``.
    """
    encoded = 0
    for graph in model.subgraphs:
        readers = litert_graph.consumers(graph)
        weights = [
            (index, values)
            for owner, _, index, values in litert_graph.constants(model)
            if owner is graph and _is_weight(model, readers.get(index, [])) and _may_shrink(values)
        ]
        densify = []
        for index, values in weights:
            sparse = tflite_csr.encode(values)
            if sparse.stored_bytes + _TABLE_BYTES < values.nbytes:
                densify.append(_densify(model, graph, index, sparse))
        graph.operators = [*densify, *graph.operators]
        encoded += len(densify)
    if encoded:
        _require_runtime(model)
    return encoded


def _is_weight(model: Any, readers: list[tuple[Any, int]]) -> bool:
    names = [(litert_graph.operator_name(model, operator), position) for operator, position in readers]
    return bool(names) and all(name in SPARSE_OPERATORS and WEIGHT_INPUT[name] == place for name, place in names)


def _may_shrink(values: Array) -> bool:
    return values.dtype == np.float32 and values.ndim > 1 and bool((values == 0).any())


def _densify(model: Any, graph: Any, index: int, sparse: tflite_csr.SparseTensor) -> Any:
    dense = graph.tensors[index]
    stored = schema.TensorT()
    stored.name, stored.type, stored.shape = dense.name, dense.type, list(sparse.shape)
    stored.buffer = litert_graph.add_buffer(model, sparse.values.tobytes())
    stored.sparsity = _parameters(sparse)
    graph.tensors.append(stored)
    dense.name, dense.buffer = dense.name + b"/dense", 0
    operator = schema.OperatorT()
    operator.opcodeIndex = litert_graph.operator_code(model, schema.BuiltinOperator.DENSIFY)
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    return operator


def _parameters(sparse: tflite_csr.SparseTensor) -> Any:
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = list(sparse.order)
    parameters.dimMetadata = [_level(level) for level in sparse.levels]
    return parameters


def _level(level: tflite_csr.Level) -> Any:
    written = schema.DimensionMetadataT()
    written.denseSize = level.size
    if level.segments is not None and level.indices is not None:
        written.format = schema.DimensionType.SPARSE_CSR
        written.arraySegmentsType, written.arraySegments = _vector(level.segments)
        written.arrayIndicesType, written.arrayIndices = _vector(level.indices)
    return written


def _vector(numbers: Array) -> tuple[int, Any]:
    kinds = {
        np.dtype(np.uint8): (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
        np.dtype(np.uint16): (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
        np.dtype(np.int32): (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
    }
    code, kind = kinds[numbers.dtype]
    vector = kind()
    vector.values = numbers
    return code, vector


def _require_runtime(model: Any) -> None:
    text = (litert_graph.get_metadata(model, "min_runtime_version") or b"0").rstrip(b"\0").decode()
    known = tuple(int(part) for part in text.split(".") if part.isdigit())
    version = ".".join(str(part) for part in max(known, _DENSIFY_SINCE))
    litert_graph.set_metadata(model, "min_runtime_version", version.encode().ljust(16, b"\0"))


def check_written(content: bytes, expected: Mapping[str, Array]) -> None:
    """Decode every constant of a written file and compare it with what was to be stored.

    Raises:
        ProofError: when a constant is missing or a bit of it differs (zeros of either sign count as equal).
    """
    model = litert_graph.parse(content)
    found = {
        tensor.name.decode(): _stored_values(model, tensor) for graph in model.subgraphs for tensor in graph.tensors
    }
    for name, values in expected.items():
        stored = found.get(name)
        if stored is None or stored.shape != values.shape or not np.array_equal(_bits(stored), _bits(values)):
            raise ProofError(
                f"the written .tflite file does not hold the weight {name!r} bit by bit",
                where=name,
                hint="please report this with the model; encoding: dense avoids the sparse writer",
            )


def _stored_values(model: Any, tensor: Any) -> Array | None:
    if tensor.sparsity is None:
        return litert_graph.constant(model, tensor)
    levels = tuple(
        tflite_csr.Level(
            size=level.denseSize,
            segments=None if level.arraySegments is None else np.asarray(level.arraySegments.values),
            indices=None if level.arrayIndices is None else np.asarray(level.arrayIndices.values),
        )
        for level in tensor.sparsity.dimMetadata
    )
    values = np.frombuffer(model.buffers[tensor.buffer].data, np.float32)
    order = tuple(tensor.sparsity.traversalOrder)
    return tflite_csr.decode(tflite_csr.SparseTensor(tuple(tensor.shape), order, levels, values))


def _bits(values: Array) -> Array:
    return np.ascontiguousarray(values + values.dtype.type(0)).view(f"u{values.dtype.itemsize}")
