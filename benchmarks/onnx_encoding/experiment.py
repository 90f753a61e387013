"""One cell: one network at one share of zeros, in all forms."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.onnx_encoding import compression, forms, loading
from benchmarks.onnx_encoding.subjects import SUBJECTS, dense_model, prunable, prune
from pdp_export.machine import cpu_name
from pdp_export.measurements import LatencyProtocol
from pdp_export.runtimes import onnx_runtime
from pdp_export.validation import isolated

LOADED = (
    "dense",
    "gap8",
    "auto, load",
    "auto, size",
    "bitmask",
    "coo",
    "fp16, load",
    "int8 dense",
    "int8, load",
    "int8, size",
)
"""Forms whose load time and memory are measured."""
RUN_AT = 0.9
"""The share of zeros at which inference is timed: after folding, the graph is the same at every share."""
_BLOCKS = 30


def environment() -> dict[str, Any]:
    """Return what the figures depend on."""
    names = ("onnx", "onnxruntime", "torch", "numpy")
    return {
        "cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version(), "threads": 1,
        "versions": {name: metadata.version(name) for name in names},
    }  # fmt: skip


def measure(name: str, zeros: float, folder: Path, loads: int) -> dict[str, Any]:
    """Measure bytes and exactness of every form; load and memory if `loads`; inference at `RUN_AT`."""
    model = dense_model(name, folder)
    dense_bytes = (folder / f"{name}.dense.onnx").stat().st_size
    names = prunable(model)
    prune(model, zeros)
    files = dict(forms.write(name, model, folder))
    sample = folder / "input.npy"
    np.save(sample, SUBJECTS[name].sample(1).numpy())
    result: dict[str, Any] = {
        "dense_bytes": dense_bytes,
        "floors": {"fp32": forms.floors(model, names, dense_bytes), "int8": forms.floors(model, names, dense_bytes, 1)},
        "bytes": {form: compression.sizes(path) for form, path in files.items()},
        "encodings": {form: onnx_runtime.describe(path).encodings for form, path in files.items()},
        "differing_bits": _differing(files),
    }
    if loads:
        result["load"] = loading.measure({form: files[form] for form in LOADED}, sample, loads)
    if zeros == RUN_AT:
        result["inference"] = {
            form: _ratio(files[against], files[form], sample)
            for form, against in (("auto, load", "dense"), ("auto, size", "dense"), ("int8, load", "int8 dense"))
        }
    return result


def _differing(files: dict[str, Path]) -> dict[str, int]:
    """Return how many weights differ in some bit between a form and the dense file of its precision."""
    counts = {}
    for twin in ("dense", "int8 dense"):
        expected = {weight.name: weight.values for weight in onnx_runtime.weights(files[twin])}
        for form, path in files.items():
            if form.startswith("fp16") or form.startswith("int8") != twin.startswith("int8"):
                continue
            found = {weight.name: weight.values for weight in onnx_runtime.weights(path)}
            counts[form] = sum(_bits(expected[name], found[name]) for name in expected)
    return counts


def _bits(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> int:
    kind = f"u{expected.dtype.itemsize}"
    return int(np.count_nonzero((expected + expected.dtype.type(0)).view(kind) != found.view(kind)))


def _ratio(dense: Path, sparse: Path, sample: Path) -> dict[str, float]:
    """Return the ratio of medians of an inference, interleaved in one process, its interval and the A/A control."""
    inputs = {spec.name: np.load(sample) for spec in onnx_runtime.describe(dense).inputs}
    found = isolated.bench("onnx", dense, sparse, inputs, LatencyProtocol(blocks=_BLOCKS, runs_per_block=3))
    return {
        "ratio": found.comparison.ratio, "low": found.comparison.interval.low, "high": found.comparison.interval.high,
        "control": found.control_aa.ratio, "dense_ms": found.dense.p50_ms,
    }  # fmt: skip
