"""Real ONNX files through real child processes: the checks as a user runs them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pdp_export.errors import ChildCrashedError, DataError, FileError, UsageError
from pdp_export.measurements import LatencyProtocol
from pdp_export.results import Verdict
from pdp_export.validation import isolated

GENERATOR = np.random.default_rng(0)
CONV = (GENERATOR.standard_normal((8, 3, 3, 3)) * (GENERATOR.random((8, 3, 3, 3)) < 0.3)).astype(np.float32)
FC = GENERATOR.standard_normal((5, 8)).astype(np.float32)
X = GENERATOR.standard_normal((10, 3, 12, 12)).astype(np.float32)


def _write(path, conv=CONV, batch="N"):
    """A small network: convolution, ReLU, mean over the image, linear."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "fc.weight"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(conv, "conv.weight"), numpy_helper.from_array(FC, "fc.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _expected():
    windows = np.lib.stride_tricks.sliding_window_view(X, (3, 3), axis=(2, 3))
    maps = np.maximum(np.einsum("nchwij,ocij->nohw", windows, CONV), 0)
    return maps.mean(axis=(2, 3)) @ FC.T


@pytest.mark.parametrize("batch", ["N", 4])
def test_outputs_match_numpy(tmp_path, batch):
    """Ten samples through a dynamic batch, and through a file that only takes four at a time."""
    path = _write(tmp_path / "model.onnx", batch=batch)
    got = isolated.outputs("onnx", path, {"x": X}, ["y"])
    assert np.allclose(got["y"], _expected(), atol=1e-5)


def test_weights_are_read_from_the_file(tmp_path):
    """The file is what counts: its weights pass, and a file with one moved zero fails."""
    weights = {"conv.weight": CONV, "fc.weight": FC}
    assert isolated.check_weights("onnx", _write(tmp_path / "model.onnx"), weights).verdict is Verdict.PASS
    moved = CONV.copy()
    flat = moved.reshape(-1)
    zero, full = np.flatnonzero(flat == 0)[0], np.flatnonzero(flat)[0]
    flat[zero], flat[full] = flat[full], 0
    check = isolated.check_weights("onnx", _write(tmp_path / "moved.onnx", conv=moved), weights)
    assert (check.verdict, check.differing_elements) == (Verdict.FAIL, 2)


def test_describe_counts_the_zeros(tmp_path):
    """Zeros and bytes come from the file on the disk."""
    path = _write(tmp_path / "model.onnx")
    facts = isolated.describe("onnx", path)
    assert facts.zeros == np.count_nonzero(CONV == 0)
    assert facts.file_bytes == path.stat().st_size


def test_bench_in_a_child(tmp_path):
    """Two real files, interleaved; the record says what ran and how often."""
    dense, pruned = (_write(tmp_path / name) for name in ("dense.onnx", "pruned.onnx"))
    protocol = LatencyProtocol(blocks=6, runs_per_block=2, warmup=1, bootstrap=200)
    result = isolated.bench("onnx", dense, pruned, {"x": X[:1]}, protocol, batch=1)
    assert np.shape(result.pruned.samples_ms) == (6, 2)
    assert result.batch == 1
    assert result.dense.p50_ms > 0
    assert result.comparison.interval.contains(result.comparison.ratio)
    assert result.verdict is not Verdict.PASS  # six blocks never suffice


def test_errors_keep_their_class_over_the_process_border(tmp_path):
    """A truncated file, a wrong shape and an unknown target are three different errors with three exit codes."""
    path = _write(tmp_path / "model.onnx")
    with pytest.raises(DataError, match="takes shape"):
        isolated.outputs("onnx", path, {"x": X[:, :, :5]}, ["y"])
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        isolated.describe("onx", path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FileError):
        isolated.describe("onnx", path)


def test_a_hanging_reader_is_stopped(tmp_path):
    """A reader that does not come back must not hang the run."""
    with pytest.raises(ChildCrashedError, match="did not finish within 0 s"):
        isolated.describe("onnx", _write(tmp_path / "model.onnx"), timeout_s=0.01)
