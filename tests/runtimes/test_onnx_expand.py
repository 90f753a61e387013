"""Sparse ONNX files back to dense ones: every weight, bit by bit, and nothing else changed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pdp_export.converters import onnx_sparse
from pdp_export.encoding.codecs import FAMILIES, SPARSE_KEY
from pdp_export.runtimes import onnx_runtime
from pdp_export.runtimes.onnx_expand import expand


def network(zeros: float = 0.9) -> onnx.ModelProto:
    """Two matrices with zeros at random and 1:4, between inputs and outputs with names."""
    rng = np.random.default_rng(0)
    free = rng.normal(size=(64, 96)).astype(np.float32)
    free[rng.random(free.shape) < zeros] = 0
    regular = rng.normal(size=(96, 64)).astype(np.float32)
    regular[:, np.arange(64) % 4 != 1] = 0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(free, "a"), numpy_helper.from_array(regular, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key="labels", value="[]")
    return model


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("encoding", ["auto", *FAMILIES])
def test_expanded_is_the_dense_file_again(encoding, half, tmp_path):
    """A table left behind, another order, a lost name, or a bit that changed."""
    dense, sparse = network(), network()
    onnx_sparse.encode(sparse, encoding, "size", half=half)
    sparse.metadata_props.add(key=SPARSE_KEY, value="2")  # it would say that an optimizer had expanded them
    (tmp_path / "s.onnx").write_bytes(sparse.SerializeToString())
    count = expand(tmp_path / "s.onnx", tmp_path / "d.onnx")
    assert count == (2 if half or encoding not in ("nm", "bitmask") else count) > 0
    written = onnx.load(tmp_path / "d.onnx")
    stored = {item.name: numpy_helper.to_array(item) for item in written.graph.initializer}
    for item in dense.graph.initializer:
        values = numpy_helper.to_array(item)
        values = values.astype(np.float16).astype(np.float32) if half else values
        assert (stored[item.name] + 0).tobytes() == (values + 0).tobytes()
    assert set(stored) == {"a", "b"}
    assert [node.op_type for node in written.graph.node] == ["MatMul", "MatMul"]
    assert written.metadata_props == dense.metadata_props
    x = {"x": np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)}
    outputs = [onnx_runtime.open_session(tmp_path / name).run(x)["y"].tobytes() for name in ("s.onnx", "d.onnx")]
    assert outputs[0] == outputs[1]


def test_dense_file_stays_as_it_is(tmp_path):
    """Nothing to expand is no error."""
    (tmp_path / "s.onnx").write_bytes(network().SerializeToString(deterministic=True))
    assert expand(tmp_path / "s.onnx", tmp_path / "d.onnx") == 0
    assert (tmp_path / "s.onnx").read_bytes() == (tmp_path / "d.onnx").read_bytes()
