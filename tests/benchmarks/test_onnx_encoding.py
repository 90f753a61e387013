"""The benchmark of encodings: what is pruned, what the floor is, and what a table says."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.onnx_encoding import compression, forms, subjects, table


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"wide": (64, 8, 3, 3), "depthwise": (64, 1, 5, 5), "tiny": (8, 64, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "wide"], ["a"]),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], group=64),
        helper.make_node("Conv", ["b", "tiny"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_only_large_dense_convolutions_are_pruned():
    """A pruned depthwise weight would make a share of zeros that no user asks for."""
    pruned = model()
    assert subjects.prunable(pruned) == ["wide"]
    subjects.prune(pruned, 0.75)
    zeros = {item.name: float((numpy_helper.to_array(item) == 0).mean()) for item in pruned.graph.initializer}
    assert zeros == {"wide": 0.75, "depthwise": 0, "tiny": 0}


def test_floor_is_entropy_and_values():
    """A floor that forgets what is not pruned, or counts bits as bytes, makes every ratio wrong."""
    pruned = model()
    subjects.prune(pruned, 0.75)
    elements, dense = 64 * 8 * 9, pruned.ByteSize()
    found = forms.floors(pruned, ["wide"], dense)
    rest = dense - 4 * elements
    assert found["bit"] == pytest.approx(rest + elements / 8 + elements)
    assert found["entropy"] == pytest.approx(rest + elements * 0.811278 / 8 + elements, rel=1e-6)


def test_coordinates_are_a_fair_rival(tmp_path):
    """The COO file must be one that ONNX Runtime opens, with the same answers."""
    pruned = model()
    subjects.prune(pruned, 0.9)
    path = forms._coo(pruned, tmp_path / "c.onnx")
    x = {"x": np.random.default_rng(1).normal(size=(1, 8, 9, 9)).astype(np.float32)}
    sessions = [onnxruntime.InferenceSession(data) for data in (pruned.SerializeToString(), path.read_bytes())]
    assert np.array_equal(*(session.run(None, x)[0] for session in sessions))
    assert {"raw", "zip"} <= set(compression.sizes(path))


def test_table_shows_every_cell():
    """A form that is missing from the table, or a ratio to the wrong twin."""
    sizes = {form: {"raw": 50, "zip": 40} for form in forms.FORMS}
    load = {
        form: {"load_ms": [2.0], "peak_mb": [1.0], "process_mb": [4.0], "outputs": ["a"]} for form in ("dense", "gap8")
    }
    cell = {
        "dense_bytes": 100, "floors": {"fp32": {"bit": 45.0, "entropy": 40.0}}, "bytes": sizes, "load": load,
        "inference": {"auto, load": {"ratio": 1.0, "low": 0.9, "high": 1.1, "control": 1.0, "dense_ms": 3.0}},
    }  # fmt: skip
    environment = {"cpu": "c", "cores": 2, "versions": {"onnxruntime": "1"}}
    trained = {"zeros": 0.9, "files": {"fp32, dense": {"bytes": 2000, "correct": 9, "samples": 10}}}
    cells = {"net@0.9": cell, "net@0.5": cell}
    text = table.markdown({"cells": cells, "environment": environment, "accuracy": trained})
    assert text.index("net@0.5") < text.index("net@0.9")
    assert "| fp32, dense | 2,000 | 9 of 10 |" in text
    assert "| net@0.9 | 50.00 |" in text
    assert "| 1.250 | 1.250 | 1.000 |" in text
    assert "| net@0.9 | gap8 | 2 | 1.00 |" in text
    assert "1.000 (0.900 to 1.100)" in text
