"""Other runtimes open the same files: OpenVINO, ONNX Runtime in the browser (under node), ONNX's own reference.

OpenVINO is used where it can be imported; ONNX Runtime Web where `PDP_EXPORT_NODE_MODULES` names a node_modules folder
that has onnxruntime-web.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from pdp_export.converters import onnx_sparse
from pdp_export.encoding.codecs import FAMILIES
from pdp_export.runtimes import onnx_runtime
from tests.runtimes.test_onnx_expand import network

NODE_MODULES = os.environ.get("PDP_EXPORT_NODE_MODULES", "")
SCRIPT = """
const ort = require(process.argv[2] + '/onnxruntime-web');
const fs = require('fs');
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'fatal';
(async () => {
  const session = await ort.InferenceSession.create(fs.readFileSync(process.argv[3]), {executionProviders: ['wasm']});
  const x = new Float32Array(JSON.parse(fs.readFileSync(process.argv[4])));
  const {y} = await session.run({x: new ort.Tensor('float32', x, [x.length / 64, 64])});
  console.log(JSON.stringify(Array.from(y.data)));
})().catch(error => { console.error(String(error)); process.exit(1); });
"""


@pytest.fixture(scope="module", params=["dense", "auto", *FAMILIES])
def case(request, tmp_path_factory):
    """Return a file, an input, and what ONNX Runtime answers."""
    path = tmp_path_factory.mktemp("elsewhere") / "m.onnx"
    model = network()
    onnx_sparse.encode(model, request.param, half=request.param == "auto")
    path.write_bytes(model.SerializeToString())
    x = np.random.default_rng(3).normal(size=(3, 64)).astype(np.float32)
    return path, x, onnx_runtime.open_session(path).run({"x": x})["y"]


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


def test_reference_evaluator(case):
    """What only ONNX Runtime understands is not ONNX."""
    path, x, expected = case
    assert near(ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})[0], expected)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino(case):
    """OpenVINO must compile every decoder and give the same answers."""
    import openvino

    path, x, expected = case
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert near(compiled({"x": x})["y"], expected)


@pytest.mark.slow
@pytest.mark.skipif(not NODE_MODULES or shutil.which("node") is None, reason="no node or no PDP_EXPORT_NODE_MODULES")
def test_onnxruntime_web(case, tmp_path):
    """The WebAssembly build has fewer kernels; a decoder it lacks would fail in the browser only."""
    path, x, expected = case
    (tmp_path / "run.cjs").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "x.json").write_text(json.dumps(x.ravel().tolist()), encoding="utf-8")
    command = [
        "node",
        str(tmp_path / "run.cjs"),
        str(Path(NODE_MODULES).resolve()),
        str(path),
        str(tmp_path / "x.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout.splitlines()[-1]), np.float32).reshape(expected.shape)
    assert near(found, expected)
