"""The .ort door: sparse weights stay sparse, the operators are listed, phones' accelerators are judged."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from pdp_export.converters import onnx_sparse
from pdp_export.errors import ConversionError, FileError, ProofError, UsageError
from pdp_export.pipeline import onnx_files
from pdp_export.runtimes import onnx_mobile, onnx_ort
from tests.runtimes.test_onnx_expand import network


@pytest.fixture
def encoded(tmp_path):
    model = network()
    onnx_sparse.encode(model, "auto")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_ort_file_is_sparse_exact_and_leaves_no_path(encoded, tmp_path):
    """Folded decoders would make .ort as large as dense; its configuration names the folder it was made in."""
    made = onnx_files.to_ort(encoded, tmp_path / "out" / "m.ort")
    assert made.sparse == 2
    dense = sum(len(item.raw_data) for item in network().graph.initializer)
    assert made.size_bytes == made.path.stat().st_size < 0.7 * dense
    x = {"x": np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)}
    found = [onnxruntime.InferenceSession(path.read_bytes()).run(["y"], x)[0] for path in (encoded, made.path)]
    assert np.array_equal(*found)
    lines = made.config.read_text(encoding="utf-8").splitlines()
    assert any("MatMul" in line or "Gemm" in line for line in lines)
    assert not any("/" in line or "#" in line for line in lines)
    assert sorted(path.name for path in made.path.parent.iterdir()) == ["m.ort", f"m{onnx_files.CONFIG_SUFFIX}"]


def test_refusals_leave_nothing(encoded, tmp_path, monkeypatch):
    """A damaged file, another format, a tool that fails or a file that answers otherwise: no half pair of files."""
    out = tmp_path / "out"
    (tmp_path / "cut.onnx").write_bytes(encoded.read_bytes()[:-700])
    with pytest.raises(FileError):
        onnx_files.to_ort(tmp_path / "cut.onnx", out / "m.ort")
    (tmp_path / "a.mnn").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"not a\.mnn"):
        onnx_files.to_ort(tmp_path / "a.mnn", out / "m.ort")
    assert not out.exists() or not list(out.iterdir())
    monkeypatch.setattr(onnx_ort, "_run", lambda source: source.with_suffix(".ort").write_bytes(b"none"))
    with pytest.raises((ConversionError, ValueError)):
        onnx_ort.convert(encoded, tmp_path / "m.ort", tmp_path / "m.config")


def test_a_wrong_ort_file_is_found(encoded, tmp_path):
    """The proof must look at the written file, not at the one it came from."""
    other = network(zeros=0.5)
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(other.SerializeToString())
    with pytest.raises(ProofError, match="output 'y'"):
        onnx_ort._prove(onnx_ort.open_session(encoded), wrong, 1e-4)


def test_accelerators_are_judged_in_sentences(encoded, tmp_path):
    """The checker's verdicts come as log lines; a change of their words must not pass unnoticed."""
    model = onnx.load(encoded)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    (tmp_path / "fixed.onnx").write_bytes(model.SerializeToString())
    found = onnx_mobile.remarks(tmp_path / "fixed.onnx")
    assert [remark.split(" the model")[0] for remark in found] == [
        "mobile: NNAPI suits", "mobile: CoreML NeuralNetwork suits", "mobile: CoreML MLProgram suits",
    ]  # fmt: skip


def test_a_checker_that_stumbles_is_a_remark(encoded, monkeypatch):
    """ONNX Runtime's checker raises for graphs without shapes; that must not fail a run."""
    from onnxruntime.tools.mobile_helpers import usability_checker

    def stumble(*_, **__):
        raise AttributeError("no logger")

    monkeypatch.setattr(usability_checker, "analyze_model", stumble)
    assert onnx_mobile.remarks(encoded) == (
        "mobile: not checked, ONNX Runtime's usability checker stopped: AttributeError: no logger",
    )
