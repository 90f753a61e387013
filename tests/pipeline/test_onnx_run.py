"""An int8 run of the real command line, and what can be made of its file afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdp_export.converters.onnx_export import TARGET
from pdp_export.runtimes import onnx_runtime
from pdp_export.validation.treatment import treatments
from tests.pipeline.conftest import CommandLine, write_recipe

SHORT = {
    "training.epochs": 1, "pruning.epochs": 0, "benchmark.blocks": 2,
    "targets": [{"name": "onnx", "precision": "int8"}],
}  # fmt: skip


@pytest.mark.slow
def test_int8_run_and_its_file(tmp_path: Path, cli: CommandLine):
    """Pins calibration data that never reaches the converter, unchecked integers, or a dense int8 file as the rival."""
    out = tmp_path / "out"
    done = cli("prune-and-convert", "--recipe", write_recipe(tmp_path / "place", SHORT), "-o", out, "--json")
    assert done.code == 0, done.err
    (target,) = json.loads(done.out)["targets"]
    assert {check["name"]: check["verdict"] for check in target["checks"]}.items() >= {
        ("weights", "PASS"), ("dtype", "PASS"), ("parity", "PASS"), ("size", "PASS"),
    }  # fmt: skip
    assert target["weights"]["differing_elements"] == 0
    assert target["weights"]["zeros_found"] >= target["weights"]["zeros_expected"] > 0
    assert any("NNAPI" in remark for remark in target["remarks"])
    assert target["remarks"][0] in (out / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")

    file = out / "artifacts/model.onnx"
    dense = onnx_runtime.describe(out / "artifacts/dense/model.onnx")
    assert {item.stored_dtype for item in dense.tensors if len(item.shape) > 1} == {"float32"}
    facts = onnx_runtime.describe(file)
    weights = [item for item in facts.tensors if len(item.shape) > 1]
    assert {(item.dtype, item.stored_dtype) for item in weights} == {("float32", "int8")}
    assert [item.name for item in treatments(facts, TARGET)] == [item.name for item in weights]

    (row,) = json.loads(cli("convert", "--expand", file, "-o", tmp_path / "again", "--json").out)
    assert set(row["encodings"]) == {"dense"}
    (row,) = json.loads(cli("convert", "--ort", file, "-o", tmp_path / "again", "--json").out)
    assert Path(row["file"]).stat().st_size == row["size_bytes"]
    assert Path(row["config"]).is_file()
