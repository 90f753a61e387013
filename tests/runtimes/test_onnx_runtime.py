"""The ONNX reader: what a file really holds, in torch layout, whoever wrote it; and files that lie."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pdp_export.converters import onnx_sparse
from pdp_export.converters.onnx_decoders import Decoders
from pdp_export.encoding.codecs import CODECS, SPARSE_KEY
from pdp_export.errors import FileError, NotRunnableError, UsageError
from pdp_export.runtimes import onnx_runtime, registry


def graph_model(nodes, inputs, outputs, constants, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def sparse_weight(shape: tuple[int, ...], zeros: float = 0.9) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape).astype(np.float32)
    values[rng.random(shape) < zeros] = 0
    return values


def network() -> onnx.ModelProto:
    """A convolution and a classifier; big enough that both weights are encoded."""
    return graph_model(
        [
            helper.make_node("Conv", ["image", "conv.weight"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("GlobalAveragePool", ["b"], ["c"]),
            helper.make_node("Flatten", ["c"], ["d"]),
            helper.make_node("Gemm", ["d", "fc.weight", "fc.bias"], ["logits"], transB=1),
        ],
        {"image": ["batch", 16, 8, 8]},
        {"logits": ["batch", 641]},
        {
            "conv.weight": sparse_weight((64, 16, 3, 3)),
            "fc.weight": sparse_weight((641, 64), 0.6),
            "fc.bias": np.ones(641, np.float32),
        },
    )


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def coded(model: onnx.ModelProto, plan: dict[str, str]) -> onnx.ModelProto:
    """Encode the weights by name, each with the codec that is asked for."""
    found = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    decoders = Decoders(set())
    for name, codec in plan.items():
        decoders.add(name, CODECS[codec].encode(found[name]), found[name].dtype)
    kept, nodes = [item for item in model.graph.initializer if item.name not in plan], list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend([*kept, *decoders.constants.values()])
    model.graph.node.extend([*decoders.nodes, *nodes])
    return model


@pytest.fixture
def encoded(tmp_path) -> Path:
    """The convolution behind gaps of one byte, the classifier behind a bitmask."""
    model = coded(network(), {"conv.weight": "gap8", "fc.weight": "bitmask"})
    model.metadata_props.add(key=SPARSE_KEY, value="2")
    return saved(model, tmp_path / "encoded.onnx")


def test_registry_knows_the_twin(encoded):
    """The name that validation looks up must lead here."""
    runtime = registry.load(registry.name_for(encoded))
    assert runtime.NAME == "onnx"
    assert runtime.version() == onnxruntime.__version__


@pytest.mark.parametrize("encoding", ["gap8", "bitmask"])
def test_describe_counts_what_is_stored(encoding, tmp_path):
    """Facts come from the file: encoding, zeros and bytes per original weight name, nothing listed twice."""
    model, dense = network(), network()
    onnx_sparse.encode(model, encoding)
    facts = onnx_runtime.describe(saved(model, tmp_path / "m.onnx"))
    tensors = {tensor.name: tensor for tensor in facts.tensors}
    assert set(tensors) == {"conv.weight", "fc.weight", "fc.bias"}
    for item in dense.graph.initializer[:2]:
        values, tensor = numpy_helper.to_array(item), tensors[item.name]
        assert (tensor.encoding, tensor.shape, tensor.dtype) == (encoding, values.shape, "float32")
        assert tensor.zeros == values.size - np.count_nonzero(values)
        assert np.count_nonzero(values) * 4 < tensor.stored_bytes < values.nbytes
    assert facts.file_bytes == (tmp_path / "m.onnx").stat().st_size
    shared = int(facts.notes[1].split()[0])
    assert sum(tensor.stored_bytes for tensor in facts.tensors) + shared < facts.file_bytes
    assert facts.elements == sum(numpy_helper.to_array(item).size for item in dense.graph.initializer)


def test_file_that_became_dense_again_is_reported_as_dense(encoded, tmp_path):
    """Optimisers fold the decoders back; inspect must show it instead of believing a name or a manifest."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    onnxruntime.InferenceSession(str(encoded), options, providers=["CPUExecutionProvider"])
    before, after = onnx_runtime.describe(encoded), onnx_runtime.describe(tmp_path / "folded.onnx")
    assert set(before.encodings) == {"dense", "gap8", "bitmask"}
    assert set(after.encodings) == {"dense"}
    assert after.zeros == before.zeros
    assert after.file_bytes > 1.5 * before.file_bytes
    assert (before.expanded, after.expanded) == (False, True)
    assert any("2 were written sparsely" in note for note in after.notes)


@pytest.mark.parametrize("value", ["-1", "many", "9" * 40, "\u0663", ""])
def test_a_foreign_count_of_sparse_weights_is_no_count(value, encoded):
    """A note that another tool wrote must not raise, nor claim that something was lost."""
    model = onnx.load(encoded)
    del model.metadata_props[:]
    model.metadata_props.add(key=SPARSE_KEY, value=value)
    assert not onnx_runtime.describe(saved(model, encoded)).expanded


def test_weights_are_exact_and_outputs_equal(encoded, tmp_path):
    """Reader and ONNX Runtime must decode the same weights."""
    plain = saved(network(), tmp_path / "dense.onnx")
    for a, b in zip(onnx_runtime.weights(plain), onnx_runtime.weights(encoded), strict=True):
        assert a.name == b.name
        assert a.values.tobytes() == b.values.tobytes()
    image = np.random.default_rng(1).normal(size=(3, 16, 8, 8)).astype(np.float32)
    outputs = [onnx_runtime.open_session(path).run({"image": image})["logits"] for path in (plain, encoded)]
    assert outputs[0].shape == (3, 641)
    assert outputs[0].tobytes() == outputs[1].tobytes()
    assert onnx_runtime.optimized_operators(plain) == onnx_runtime.optimized_operators(encoded)


def test_matrices_come_back_in_torch_layout(tmp_path):
    """MatMul and Gemm without transB hold (in, out); an operand used both ways stays as it is stored."""
    model = graph_model(
        [
            helper.make_node("MatMul", ["x", "matmul"], ["a"]),
            helper.make_node("Gemm", ["a", "plain"], ["b"]),
            helper.make_node("Gemm", ["b", "straight"], ["c"], transB=1),
            helper.make_node("MatMul", ["c", "both"], ["d"]),
            helper.make_node("MatMul", ["both", "d"], ["y"]),
        ],
        {"x": [4, 3]},
        {"y": [4, 4]},
        {name: sparse_weight(shape) for name, shape in
         {"matmul": (3, 5), "plain": (5, 6), "straight": (4, 6), "both": (4, 4)}.items()},
    )  # fmt: skip
    shapes = {weight.name: weight.values.shape for weight in onnx_runtime.weights(saved(model, tmp_path / "m.onnx"))}
    assert shapes == {"matmul": (5, 3), "plain": (6, 5), "straight": (4, 6), "both": (4, 4)}


@pytest.mark.parametrize("coordinates", [False, True])
def test_coo_of_other_tools(coordinates, tmp_path):
    """A sparse_initializer holds weights too; leaving it out would report a model without them."""
    model = network()
    weight = numpy_helper.to_array(model.graph.initializer[1])
    where = np.argwhere(weight) if coordinates else np.flatnonzero(weight)
    values = numpy_helper.from_array(weight[weight != 0], "fc.weight")
    del model.graph.initializer[1]
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(where.astype(np.int64)), weight.shape)
    model.graph.sparse_initializer.append(sparse)
    path = saved(model, tmp_path / "coo.onnx")
    assert onnx_runtime.describe(path).encodings == {"dense": 2, "coo": 1}
    (found,) = [item.values for item in onnx_runtime.weights(path) if item.name == "fc.weight"]
    assert np.array_equal(found, weight)


def test_session_says_what_it_wants(encoded):
    """A wrong name, shape or dtype must come back as one sentence, not as a native traceback."""
    session = onnx_runtime.open_session(encoded, threads=2)
    assert session.inputs[0].layout == "NCHW"
    for wrong in (
        {"picture": np.zeros((1, 16, 8, 8), np.float32)},
        {"image": np.zeros((1, 3, 8, 8), np.float32)},
        {"image": np.zeros((1, 16, 8, 8), np.float64)},
        {},
    ):
        with pytest.raises(UsageError, match="image"):
            session.run(wrong)


def test_operator_that_this_runtime_lacks(tmp_path):
    """A file of another vendor's operators is not damaged, but cannot run here."""
    model = graph_model([helper.make_node("Secret", ["x"], ["y"], domain="acme")], {"x": [1]}, {"y": [1]}, {})
    model.opset_import.append(helper.make_opsetid("acme", 1))
    path = saved(model, tmp_path / "m.onnx")
    assert onnx_runtime.describe(path).operators == {"acme.Secret": 1}
    with pytest.raises(NotRunnableError, match="Secret"):
        onnx_runtime.open_session(path)


def test_run_that_asks_for_terabytes(tmp_path):
    """A graph may ask for any amount of memory at run time; that is no wrong input and no native traceback."""
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["z"]), helper.make_node("ReduceSum", ["z"], ["r"], keepdims=0)]
    nodes.append(helper.make_node("Add", ["x", "r"], ["y"]))
    path = saved(graph_model(nodes, {"x": [1]}, {"y": [1]}, {"n": np.array([1 << 42])}), tmp_path / "m.onnx")
    session = onnx_runtime.open_session(path)
    with pytest.raises(NotRunnableError, match="memory"):
        session.run({"x": np.zeros(1, np.float32)})


def refused(path: Path) -> str:
    """Every way in refuses the file, quickly."""
    start = time.monotonic()
    with pytest.raises(FileError) as caught:
        onnx_runtime.describe(path)
    for way_in in (onnx_runtime.weights, onnx_runtime.open_session):
        with pytest.raises(FileError):
            way_in(path)
    assert time.monotonic() - start < 5
    return str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(30), b"\x80\x04K\x01."])
def test_foreign_files(data, tmp_path):
    """Protobuf accepts many foreign bytes as an empty message; an empty model is no model."""
    path = tmp_path / "f.onnx"
    path.write_bytes(data)
    refused(path)
    refused(tmp_path / "absent.onnx")
    refused(tmp_path)


def test_truncated_at_any_length(encoded):
    """A download that broke off, at every tenth of the file and in its last bytes."""
    data = encoded.read_bytes()
    for length in [*range(0, len(data), len(data) // 10), *range(len(data) - 9, len(data))]:
        encoded.write_bytes(data[:length])
        with pytest.raises(FileError):
            onnx_runtime.describe(encoded)


def test_data_outside_of_the_file(tmp_path):
    """A path in the file must never be followed: it may lead to any file of the reader."""
    model = network()
    item = model.graph.initializer[0]
    item.ClearField("raw_data")
    item.data_location = TensorProto.EXTERNAL
    item.external_data.add(key="location", value="../../../../etc/passwd")
    assert "only a file beside it" in refused(saved(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("dims", [[1 << 40, 1 << 40], [1 << 62], [-1, 16, 3, 3], [1, 1]])
def test_claimed_shapes(dims, tmp_path):
    """A claim of terabytes must not be allocated, nor a claim that is too small be cut."""
    model = network()
    model.graph.initializer[0].dims[:] = dims
    assert "conv.weight" in refused(saved(model, tmp_path / "m.onnx"))


def replace(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    (item,) = [item for item in model.graph.initializer if item.name == name]
    item.CopyFrom(numpy_helper.from_array(values, name))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("conv.weight/gaps8", lambda old: np.full_like(old, 255), "outside"),
        ("conv.weight/gaps8", np.zeros_like, "repeats"),
        ("conv.weight/gaps8", lambda old: old[:-1], "do not belong"),
        ("fc.weight/mask", lambda old: old | 1, "do not belong"),
        ("fc.weight/mask", lambda old: old[:-1], "does not belong"),
    ],
)
def test_codes_that_lie(part, values, message, encoded):
    """A position outside of the tensor must be an error of the file, not of numpy or of memory."""
    model = onnx.load(encoded)
    old = next(numpy_helper.to_array(item) for item in model.graph.initializer if item.name == part)
    replace(model, part, values(old))
    assert message in refused(saved(model, encoded))


def test_decoder_that_claims_terabytes(encoded):
    """ConstantOfShape needs eight bytes in the file to ask for any amount of memory."""
    model = onnx.load(encoded)
    for item in model.graph.initializer:
        if item.name.startswith(("pdp/shape/9216", "pdp/shape/64x16")):
            values = numpy_helper.to_array(item).copy()
            values[0] = values[0] << 40
            replace(model, item.name, values)
    assert "more than a file can hold" in refused(saved(model, encoded))


def test_lookalike_is_not_decoded(encoded):
    """One changed table entry changes the meaning; the weight must not be reported as if it were ours."""
    model = onnx.load(encoded)
    (table,) = [numpy_helper.to_array(i).copy() for i in model.graph.initializer if i.name == "pdp/ranks/bytes"]
    table[255, 7] = 1
    replace(model, "pdp/ranks/bytes", table)
    assert "bitmask" not in onnx_runtime.describe(saved(model, encoded)).encodings


def test_names_that_are_no_text_are_refused(encoded):
    """Protobuf hands invalid UTF-8 out as bytes, which passed for a name until something else broke on it."""
    data = encoded.read_bytes()
    assert b"conv.weight/gaps8" in data
    encoded.write_bytes(data.replace(b"conv.weight/gaps8", b"conv\x80weight/gaps8"))
    with pytest.raises(FileError, match="no text"):
        onnx_runtime.describe(encoded)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5))
def test_flipped_bytes_give_a_file_error_or_facts(encoded, flips):
    """Whatever a damaged disk does to a file, the reader answers with FileError or with facts, never with a crash."""
    model = network()
    onnx_sparse.encode(model, "auto")
    data = bytearray(model.SerializeToString())
    for where, value in flips:
        data[int(where * len(data))] = value
    encoded.write_bytes(bytes(data))
    try:
        onnx_runtime.describe(encoded)
    except FileError:
        return
    assert onnx_runtime.weights(encoded) is not None
