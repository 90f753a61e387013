"""Load time and peak memory of one file in a process of its own. Linux only.

The kernel's high-water mark is started anew after the libraries are loaded and a tiny model has run, so that it shows
what loading this file adds.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


def measure(files: dict[str, Path], inputs: Path, repeats: int) -> dict[str, dict[str, Any]]:
    """Load every file `repeats` times, interleaved, and return milliseconds, megabytes and the hash of the outputs."""
    found: dict[str, list[dict[str, Any]]] = {form: [] for form in files}
    for _ in range(repeats):
        for form, path in files.items():
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.onnx_encoding", "load", str(path), str(inputs)],
                capture_output=True, text=True, check=True, cwd=_ROOT,
            )  # fmt: skip
            found[form].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        form: {
            "load_ms": [item["ms"] for item in items],
            "peak_mb": [item["peak_mb"] for item in items],
            "process_mb": [item["process_mb"] for item in items],
            "outputs": sorted({item["outputs"] for item in items}),
        }
        for form, items in found.items()
    }


def load_and_report(path: Path, inputs: Path) -> None:
    """Load one file in this process, run it once, and print what that took as JSON."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    _warm_up(onnxruntime, options)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    elapsed = time.perf_counter() - start
    peak = _status("VmHWM")
    (output,) = session.run(None, {session.get_inputs()[0].name: np.load(inputs)})
    print(json.dumps({
        "ms": round(1e3 * elapsed, 2), "peak_mb": round(peak - before, 2), "process_mb": round(peak, 2),
        "outputs": hashlib.sha256(np.ascontiguousarray(output).tobytes()).hexdigest()[:16],
    }))  # fmt: skip


def _warm_up(onnxruntime: Any, options: Any) -> None:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _status(key: str) -> float:
    """Return a line of /proc/self/status in megabytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:")) / 1024
