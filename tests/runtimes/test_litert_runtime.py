"""Reading .tflite files back: facts, weights, sessions, and files that are damaged or of other origin."""

from __future__ import annotations

import contextlib
import json

import flatbuffers
import hypothesis.strategies as st
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings

from pdp_export.encoding import tflite_csr
from pdp_export.errors import DataError, FileError, NotRunnableError
from pdp_export.runtimes import litert_runtime, tflite_file
from pdp_export.runtimes.tflite_file import Graph, Operator, Tensor
from pdp_export.runtimes.xnnpack_sparse import sparse_path

RNG = np.random.default_rng(0)


def buffer(values):
    item = schema.BufferT()
    item.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    return item


def tensor(name, shape, number, kind=0, sparsity=None):
    item = schema.TensorT()
    item.name, item.shape, item.buffer, item.type, item.sparsity = name.encode(), list(shape), number, kind, sparsity
    return item


def sparsity_of(sparse):
    """Write levels as the schema's objects, with 32-bit vectors as TensorFlow does."""
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = list(sparse.order)
    parameters.dimMetadata = []
    for level in sparse.levels:
        item = schema.DimensionMetadataT()
        item.denseSize = level.size
        if level.segments is not None:
            item.format = schema.DimensionType.SPARSE_CSR
            for kind, values in (("arraySegments", level.segments), ("arrayIndices", level.indices)):
                vector = schema.Int32VectorT()
                vector.values = values.astype(np.int32)
                setattr(item, kind, vector)
                setattr(item, f"{kind}Type", schema.SparseIndexVector.Int32Vector)
        parameters.dimMetadata.append(item)
    return parameters


WEIGHT = np.where(RNG.random((6, 8)) < 0.8, np.float32(0), RNG.normal(size=(6, 8)).astype(np.float32))
BIAS = RNG.normal(size=6).astype(np.float32)


def linear_model(metadata=None):
    """A model of another tool: sparse weight -> DENSIFY -> FULLY_CONNECTED, with no signature."""
    sparse = tflite_csr.encode(WEIGHT)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers = 3, [schema.BufferT(), buffer(sparse.values), buffer(BIAS)]
    graph.tensors = [
        tensor("x", (1, 8), 0),
        tensor("w", (6, 8), 1, sparsity=sparsity_of(sparse)),
        tensor("w/dense", (6, 8), 0),
        tensor("b", (6,), 2),
        tensor("y", (1, 6), 0),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [4], []
    for number, (code, inputs, outputs) in enumerate([(124, [1], [2]), (9, [0, 2, 3], [4])]):
        item = schema.OperatorT()
        item.opcodeIndex, item.inputs, item.outputs = number, inputs, outputs
        graph.operators.append(item)
        kind = schema.OperatorCodeT()
        kind.builtinCode = kind.deprecatedBuiltinCode = code
        kind.version = 1
        model.operatorCodes = [*(model.operatorCodes or []), kind]
    graph.operators[1].builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    graph.operators[1].builtinOptions = schema.FullyConnectedOptionsT()
    model.subgraphs = [graph]
    if metadata is not None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = b"pdp_export", 3
        model.buffers.append(buffer(np.frombuffer(metadata, np.uint8)))
        model.metadata = [entry]
    return model


def write(model, path):
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return write(linear_model(), tmp_path_factory.mktemp("tflite") / "linear.tflite")


def test_facts_of_a_file_of_other_origin(linear):
    """Only our own files could be inspected, or stored bytes left the indices out."""
    facts = litert_runtime.describe(linear)
    assert facts.file_bytes == linear.stat().st_size
    assert [(item.name, item.shape, item.layout) for item in facts.inputs] == [("x", (1, 8), "any")]
    assert facts.operators == {"DENSIFY": 1, "FULLY_CONNECTED": 1}
    weight = facts.tensors[0]
    kept = int(np.count_nonzero(WEIGHT))
    assert (weight.encoding, weight.zeros, weight.stored_dtype) == ("sparse", 48 - kept, "float32")
    assert weight.stored_bytes == kept * (4 + 4) + 7 * 4
    assert facts.encodings == {"sparse": 1, "dense": 1}


def test_weights_decode_and_litert_agrees(linear):
    """The decoder here and the one in LiteRT must read the same weight."""
    found = {item.name: item for item in litert_runtime.weights(linear)}
    assert list(found) == ["w"]
    assert found["w"].values.tobytes() == WEIGHT.tobytes()
    x = RNG.normal(size=(1, 8)).astype(np.float32)
    result = litert_runtime.open_session(linear).run({"x": x})
    assert np.allclose(result["y"], x @ WEIGHT.T + BIAS, atol=1e-6)


def test_results_are_fresh_arrays(linear):
    """A result that is a view of LiteRT's buffer changed with the next run."""
    session = litert_runtime.open_session(linear)
    first = session.run({"x": np.ones((1, 8), np.float32)})["y"]
    copy = first.copy()
    session.run({"x": np.full((1, 8), 5, np.float32)})
    assert np.array_equal(first, copy)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "none"),
        ({"z": np.zeros((1, 8), np.float32)}, "z were given"),
        ({"x": np.zeros((2, 8), np.float32)}, r"shape \(2, 8\), the file takes \(1, 8\)"),
        ({"x": np.zeros((1, 8), np.complex64)}, "is complex64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message, linear):
    """LiteRT's own message names neither the input nor the shape it wants."""
    with pytest.raises(DataError, match=message):
        litert_runtime.open_session(linear).run(inputs)


def test_every_truncation_is_noticed(linear, tmp_path):
    """A half-copied file went on to native code, which reads beyond its end."""
    content = linear.read_bytes()
    path = tmp_path / "cut.tflite"
    for length in range(len(content) - 8):
        path.write_bytes(content[:length])
        with pytest.raises(FileError, match=r"cut\.tflite"):
            tflite_file.read(path)


@given(st.integers(8), st.binary(min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_damage_is_a_file_error_or_a_readable_file(linear, tmp_path_factory, place, junk):
    """Overwritten bytes raised whatever Python raises on a wild offset."""
    content = bytearray(linear.read_bytes())
    place %= len(content)
    content[place : place + len(junk)] = junk
    path = tmp_path_factory.mktemp("damaged") / "m.tflite"
    path.write_bytes(content)
    with contextlib.suppress(FileError):
        litert_runtime.describe(path)
        litert_runtime.weights(path)


def test_foreign_and_missing_files_are_named(tmp_path):
    """An ONNX file with the wrong suffix was handed to LiteRT."""
    path = tmp_path / "m.tflite"
    for content in (b"", b"PK\x03\x04", b"\x08\x07\x12\x07pytorch" * 50):
        path.write_bytes(content)
        with pytest.raises(FileError, match="is not a"):
            litert_runtime.describe(path)
    with pytest.raises(FileError, match="cannot be read"):
        litert_runtime.describe(tmp_path / "absent.tflite")


def break_buffer(model):
    model.buffers[2] = buffer(BIAS[:5])


def break_tensor_number(model):
    model.subgraphs[0].operators[0].inputs = [99]


def break_buffer_number(model):
    model.subgraphs[0].tensors[3].buffer = 99


def break_operator_code(model):
    model.subgraphs[0].operators[0].opcodeIndex = 99


def break_sparse_index(model):
    model.subgraphs[0].tensors[1].sparsity.dimMetadata[1].arrayIndices.values[0] = 8


def break_shape(model):
    model.subgraphs[0].tensors[0].shape = [1, -8]


def break_graphs(model):
    model.subgraphs = []


@pytest.mark.parametrize(
    "damage",
    [
        break_buffer,
        break_tensor_number,
        break_buffer_number,
        break_operator_code,
        break_sparse_index,
        break_shape,
        break_graphs,
    ],
)
def test_contradictions_are_refused_before_native_code(damage, tmp_path):
    """A well-formed flatbuffer with wild numbers made LiteRT read outside its memory."""
    model = linear_model()
    damage(model)
    with pytest.raises(FileError, match="damaged"):
        litert_runtime.open_session(write(model, tmp_path / "m.tflite"))


def test_unknown_operator_can_be_inspected_but_not_run(tmp_path):
    """An operator that this LiteRT lacks is no damage: the verdict is NOT_RUN, with the reason."""
    model = linear_model()
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = 32
    model.operatorCodes[0].customCode = b"OtherVendorsOp"
    path = write(model, tmp_path / "m.tflite")
    assert litert_runtime.describe(path).operators["OtherVendorsOp"] == 1
    with pytest.raises(NotRunnableError, match="OtherVendorsOp"):
        litert_runtime.open_session(path)


def test_own_metadata_restores_names_and_shapes(tmp_path):
    """Merged, transposed and reshaped weights did not match the program's."""
    record = {
        "aliases": {"twin": "w"},
        "transposed": ["twin"],
        "shapes": {"w": "[6, 4, 2]"},
        "metadata": {"mean": "0.5"},
    }
    path = write(linear_model(json.dumps(record).encode()), tmp_path / "m.tflite")
    found = {item.name: item.values for item in litert_runtime.weights(path)}
    assert found["w"].shape == (6, 4, 2)
    assert np.array_equal(found["twin"], WEIGHT.T)
    assert litert_runtime.describe(path).metadata == {"mean": "0.5"}


@pytest.mark.parametrize("record", [b"\xff", b"[]", b'{"aliases": 3, "layouts": {"x": "up"}, "shapes": {"w": "[5]"}}'])
def test_strange_own_metadata_is_ignored(record, tmp_path):
    """Metadata is only bytes: it must not break reading the weights."""
    path = write(linear_model(record), tmp_path / "m.tflite")
    assert [item.values.shape for item in litert_runtime.weights(path)] == [(6, 8)]
    assert litert_runtime.describe(path).inputs[0].layout == "any"


def network(share=0.9, padding=1, stem_stride=2, tap=False, densify=True, before_mean=None):
    """RGB stem -> depthwise -> 1x1 -> (operator) -> MEAN -> FULLY_CONNECTED, as a graph."""
    pointwise = (np.arange(128) >= share * 128).astype(np.float32).reshape(16, 1, 1, 8)
    tensors = {
        "image": ((1, 32, 32, 3), None), "pad": ((4, 2), np.array([[0, 0], [1, 1], [1, 1], [0, 0]])),
        "padded": ((1, 34, 34, 3), None), "stem_w": ((8, 3, 3, 3), np.ones((8, 3, 3, 3))), "a": ((1, 16, 16, 8), None),
        "depth_w": ((1, 3, 3, 8), np.ones((1, 3, 3, 8))), "b": ((1, 16, 16, 8), None),
        "point_w": (pointwise.shape, pointwise), "point_w/dense": (pointwise.shape, None), "c": ((1, 16, 16, 16), None),
        "d": ((1, 16, 16, 16), None), "axes": ((2,), np.array([1, 2])), "e": ((1, 16), None),
        "linear_w": ((4, 16), np.zeros((4, 16))), "y": ((1, 4), None),
    }  # fmt: skip
    number = {name: index for index, name in enumerate(tensors)}
    window = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 1}

    def operator(name, inputs, outputs, **options):
        return Operator(name, tuple(number[item] for item in inputs.split()), (number[outputs],), {**window, **options})

    operators = [
        operator("DENSIFY", "point_w", "point_w/dense"),
        operator("PAD", "image pad", "padded"),
        operator("CONV_2D", "padded stem_w", "a", strideH=stem_stride, strideW=stem_stride),
        operator("DEPTHWISE_CONV_2D", "a depth_w", "b", padding=1 - padding, depthMultiplier=1),
        operator("CONV_2D", "b point_w/dense" if densify else "b point_w", "c"),
        operator(before_mean or "HARD_SWISH", "c", "d"),
        operator("MEAN", "d axes", "e"),
        operator("FULLY_CONNECTED", "e linear_w", "y"),
    ]
    outputs = [("y", number["y"]), *([("b", number["b"])] if tap else [])]
    return Graph(
        tuple(Tensor(name, shape, "float32", values=values) for name, (shape, values) in tensors.items()),
        tuple(operators if densify else operators[1:]),
        (("image", 0),),
        tuple(outputs),
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"share": 0.5}, "more than 66.7 % are needed"),
        ({"densify": False}, "no weight is stored as a sparse tensor"),
        ({"tap": True}, "also an output"),
        ({"before_mean": "TRANSPOSE"}, "MEAN 'e' reads TRANSPOSE 'd', which stays channel-last"),
        ({"stem_stride": 1}, "reads CONV_2D 'a', which stays channel-last"),
        ({"padding": 0}, "reads DEPTHWISE_CONV_2D 'b', which stays channel-last"),
    ],
)
def test_conditions_of_the_sparse_path(changes, reason):
    """A speed-up was promised where XNNPACK refuses, or kept back where it accepts."""
    judged = sparse_path(network(**changes))
    assert judged.holds is (not reason)
    assert reason in judged.reason
