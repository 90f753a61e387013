"""The decoders of sparse weights, run by two independent implementations of ONNX."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pdp_export.converters import onnx_sparse
from pdp_export.converters.onnx_decoders import Decoders
from pdp_export.encoding import codecs
from pdp_export.encoding.codecs import FAMILIES
from pdp_export.encoding.zeros import positive_zeros
from pdp_export.errors import ConversionError
from pdp_export.runtimes.onnx_decoders import Finder


def model_with(values: np.ndarray, name: str = "w") -> onnx.ModelProto:
    """Return y = x + w, with w as a plain initializer."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", name], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [])],
        [helper.make_tensor_value_info("y", kind, list(values.shape))],
        [numpy_helper.from_array(values, name)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def decoded_by_ort(model: onnx.ModelProto, dtype: np.dtype, level: onnxruntime.GraphOptimizationLevel) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.zeros((), dtype)})[0]


@st.composite
def sparse(draw):
    """Matrices large enough that encoding pays, with every special value and long gaps."""
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float16])))
    shape = (draw(st.integers(90, 99)), draw(st.integers(120, 130)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=shape).astype(dtype)
    for special in (np.nan, np.inf, -0.0, np.finfo(dtype).smallest_subnormal):
        values[rng.random(shape) < 0.01] = special
    values[rng.random(shape) < draw(st.sampled_from([0.6, 0.9, 0.999, 1.0]))] = 0
    return values


@pytest.mark.parametrize("encoding", ["gap", "gap8", "bitmask", "bitmask2", "rice"])
@settings(max_examples=8, deadline=None)
@given(values=sparse())
def test_decoders_give_back_every_bit(encoding, values):
    """Folded at load, evaluated per run, or run by the reference: w + 0 must be w, bit by bit."""
    model = model_with(values)
    plan = onnx_sparse.encode(model, encoding)
    assert set(plan) == {"w"}
    assert plan["w"].encoding in FAMILIES[encoding]
    onnx.checker.check_model(model, full_check=True)
    expected = positive_zeros(values)
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_ENABLE_ALL, levels.ORT_DISABLE_ALL):
        assert decoded_by_ort(model, values.dtype, level).tobytes() == expected.tobytes()
    reference = ReferenceEvaluator(model).run(None, {"x": np.zeros((), values.dtype)})[0]
    assert reference.tobytes() == expected.tobytes()
    assert onnx_sparse.decode(model, plan)["w"].tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(8, 64), (64, 6, 3, 5), (128, 8)])
@pytest.mark.parametrize("m", [2, 4, 8, 16])
def test_regular_zeros(shape, m):
    """Groups along input channels, or along axis 0 of a matrix that the exporter transposed, at every group size."""
    rng = np.random.default_rng(m)
    values = rng.normal(size=(16 * shape[0], 16 * shape[1] // 8 * 8, *shape[2:])).astype(np.float32)
    axis = 0 if shape == (128, 8) else 1
    blocks = np.moveaxis(values, axis, -1)
    blocks[..., np.arange(blocks.shape[-1]) % m != m // 2] = 0
    model = model_with(values)
    assert onnx_sparse.encode(model, "nm")["w"].parameters == {"m": m, "axis": axis}
    onnx.checker.check_model(model, full_check=True)
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ):
        assert decoded_by_ort(model, values.dtype, level).tobytes() == values.tobytes()
    (coded,) = Finder(model.graph).coded()
    assert codecs.decode(coded.code).tobytes() == values.tobytes()


@pytest.mark.parametrize("name", [name for name in codecs.CODECS if name not in ("nm", "dense")])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("size", [(96, 128), (97, 123)])
def test_the_reader_finds_what_the_writer_wrote(name, dtype, size):
    """Every codec, stored dtype and form of the graph: found by structure, nothing left over, every bit decoded."""
    rng = np.random.default_rng(0)
    values = (50 * rng.normal(size=size)).astype(dtype)
    values[rng.random(size) < 0.9] = 0
    restored = np.dtype(np.float32) if dtype is np.float16 else values.dtype
    decoders = Decoders({"x", "y", "w"})
    decoders.add("w", codecs.CODECS[name].encode(values), restored)
    model = model_with(np.zeros(size, restored))
    nodes = [*decoders.nodes, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(decoders.constants.values())
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    finder = Finder(model.graph)
    (coded,) = finder.coded()
    assert (coded.name, coded.code.encoding, coded.dtype) == ("w", name, restored)
    assert codecs.decode(coded.code).tobytes() == positive_zeros(values).tobytes()
    assert finder.parts() == set(decoders.constants)


def test_half_values_are_widened_when_the_file_is_loaded():
    """fp16 halves the values; a weight beyond its range must stay as it is instead of becoming infinite."""
    values = np.random.default_rng(0).normal(size=(96, 128)).astype(np.float32)
    values[:, ::2] = 0
    model, large = model_with(values), model_with(values * 1e6)
    onnx_sparse.encode(model, "auto", half=True)
    expected = positive_zeros(values.astype(np.float16)).astype(np.float32)
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ):
        assert decoded_by_ort(model, values.dtype, level).tobytes() == expected.tobytes()
    assert model.ByteSize() < values.nbytes * 0.35
    onnx_sparse.encode(large, "dense", half=True)
    assert large.graph.initializer[0].data_type == TensorProto.FLOAT


@pytest.mark.parametrize("zeros", [0.3, 0.8, 0.97])
def test_plan_takes_the_smallest_file(zeros):
    """A choice by payload alone forgets nodes, names and tables: auto must equal the smallest file really written."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 130)).astype(np.float32)
    values[rng.random(values.shape) < zeros] = 0
    sizes = {}
    for encoding in ("dense", *FAMILIES, "auto"):
        model = model_with(values)
        onnx_sparse.encode(model, encoding, "size")
        sizes[encoding] = model.ByteSize()
    assert sizes["auto"] == min(sizes.values()) < sizes["dense"]


@pytest.mark.parametrize("encoding", ["auto", *FAMILIES])
def test_small_or_full_weights_stay_dense(encoding):
    """An encoding that is asked for must still never make the file larger."""
    full = model_with(np.ones((64, 64), np.float32))
    small = model_with(np.zeros((8, 8), np.float32))
    before = full.ByteSize(), small.ByteSize()
    assert onnx_sparse.encode(full, encoding) == onnx_sparse.encode(small, encoding) == {}
    assert (full.ByteSize(), small.ByteSize()) == before


def test_vectors_stay_constants():
    """Resize scales or a bias behind a decoder would stop shape inference; only rank >= 2 is encoded."""
    model = model_with(np.zeros(10_000, np.float32))
    assert onnx_sparse.encode(model, "auto") == {}


def test_name_clash_is_refused():
    """Two tensors of one name would silently decode the wrong weight."""
    model = model_with(np.zeros((100, 100), np.float32))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "w/gaps8"))
    with pytest.raises(ConversionError, match="w/gaps8"):
        onnx_sparse.encode(model, "gap8")


def test_int_weights_are_left_alone():
    """Index tables of rank 2 are no weights."""
    model = model_with(np.zeros((100, 100), np.int64))
    assert model.graph.initializer[0].data_type == TensorProto.INT64
    assert onnx_sparse.encode(model, "auto") == {}


def test_a_node_has_to_pay_where_a_file_shall_load_quickly():
    """Fourteen nodes for each of a hundred small weights made loading slower than the few bytes were worth."""
    rng, kinds = np.random.default_rng(0), {}
    for side in (100, 1000):
        for objective in ("load", "size"):
            values = rng.normal(size=(side, side)).astype(np.float32)
            values[rng.random(values.shape) < 0.9] = 0
            kinds[side, objective] = onnx_sparse.encode(model_with(values), "auto", objective)["w"].encoding
    assert kinds[100, "load"] == "gap8"
    assert kinds[1000, "load"] == "gap6"
    assert kinds[1000, "size"].startswith("rice")
