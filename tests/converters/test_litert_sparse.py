"""The sparse writer alone, on one small converted file whose weights are replaced."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from pdp_export.converters import litert_cleanup, litert_export, litert_graph, litert_sparse
from pdp_export.removal.simplification import simplify
from pdp_export.results import TensorSpec
from pdp_export.runtimes import litert_runtime
from pdp_export.targets import ConvertRequest


@pytest.fixture(scope="module")
def dense_model(tmp_path_factory):
    """Two linear layers and a bias that is a matrix, none of them pruned."""
    path = tmp_path_factory.mktemp("litert") / "m.tflite"
    layers = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 40)).eval()
    program = simplify(layers, (torch.zeros(1, 96),))
    spec = TensorSpec(name="x", shape=(1, 96))
    litert_export.convert(program, path, ConvertRequest(inputs=(spec,), outputs=("y",), encoding="dense"))
    return litert_graph.parse(path.read_bytes())


def with_zeros(model, share, seed):
    """Return a copy of the model whose matrices have about `share` zeros, of both signs, and the weights by name."""
    model = copy.deepcopy(model)
    generator = np.random.default_rng(seed)
    weights = {}
    for _, tensor, _, values in litert_graph.constants(model):
        weights[tensor.name.decode()] = values
        if values.ndim > 1:
            signed_zeros = np.where(generator.random(values.shape) < 0.5, np.float32(0), np.float32(-0.0))
            pruned = np.where(generator.random(values.shape) < share, signed_zeros, values)
            tensor.buffer = litert_graph.add_buffer(model, pruned.tobytes())
            weights[tensor.name.decode()] = pruned
    return model, weights


def packed(model):
    litert_cleanup.drop_unused(model)
    return litert_graph.pack(model)


@given(share=st.floats(0, 1), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_sparse_storage_never_makes_the_file_larger(dense_model, share, seed):
    """At few zeros the indices cost more than they save; every choice must keep every weight."""
    model, weights = with_zeros(dense_model, share, seed)
    dense_bytes = len(packed(copy.deepcopy(model)))
    encoded = litert_sparse.encode_weights(model)
    content = packed(model)
    assert len(content) <= dense_bytes
    litert_sparse.check_written(content, weights)
    if encoded:
        assert len(content) < dense_bytes
    if share > 0.5:
        assert encoded == 2


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_litert_reads_what_was_written(dense_model, share, tmp_path):
    """A weight of nothing but zeros has no values to store, and LiteRT took it for an input."""
    model, weights = with_zeros(dense_model, share, seed=0)
    assert litert_sparse.encode_weights(model) == 2
    path = tmp_path / "m.tflite"
    path.write_bytes(packed(model))
    x = np.linspace(-1, 1, 96, dtype=np.float32)[None]
    hidden = np.maximum(x @ weights["0.weight"].T + weights["0.bias"], 0)
    expected = hidden @ weights["2.weight"].T + weights["2.bias"]
    assert np.allclose(litert_runtime.open_session(path).run({"x": x})["y"], expected, atol=1e-6)


def test_dropping_unused_parts_changes_nothing_that_is_used(dense_model):
    """Renumbering mixed up tensors, buffers or operator codes."""
    before = packed(copy.deepcopy(dense_model))
    model = copy.deepcopy(dense_model)
    litert_graph.add_constant(model, model.subgraphs[0], "unused", np.zeros(1000, np.float32))
    litert_graph.operator_code(model, 124)
    assert packed(model) == before


def test_metadata_of_the_same_name_is_replaced(dense_model):
    """A second entry of one name left it to chance which one a reader finds."""
    model = copy.deepcopy(dense_model)
    litert_graph.set_metadata(model, "key", b"old")
    litert_graph.set_metadata(model, "key", b"new")
    read = litert_graph.parse(packed(model))
    assert [bytes(read.buffers[item.buffer].data) for item in read.metadata if item.name == b"key"] == [b"new"]
    assert litert_graph.get_metadata(read, "absent") is None
