"""The parent's side of `run_file.py`: each function runs a native reader in a child process with limits.

All of them raise FileError for a damaged file, NotRunnableError where this machine cannot execute the
format, and ChildCrashedError when the child died, hung or needed too much memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from pdp_export import isolation
from pdp_export.measurements import LatencyProtocol, LatencyResult, WeightCheck
from pdp_export.results import FileFacts
from pdp_export.validation.feeding import contiguous

Array = np.ndarray[Any, Any]

_MODULE = "pdp_export.validation.run_file"
READ_TIMEOUT_S = 300.0
RUN_TIMEOUT_S = 1800.0


def describe(target: str, path: Path, *, log: Path | None = None, timeout_s: float = READ_TIMEOUT_S) -> FileFacts:
    """Return what a file holds, read from its own bytes."""
    answer = isolation.call(
        f"{_MODULE}:describe_file",
        {"target": target, "path": str(path)},
        what=f"reading {path.name}",
        timeout_s=timeout_s,
        log=log,
    )
    return FileFacts.model_validate(answer)


def remarks(target: str, path: Path, *, log: Path | None = None) -> tuple[str, ...]:
    """Return what the runtime has to say about a file, for example whether it suits the accelerators of phones."""
    payload = {"target": target, "path": str(path)}
    what = f"asking about {path.name}"
    return tuple(isolation.call(f"{_MODULE}:remarks", payload, what=what, timeout_s=READ_TIMEOUT_S, log=log))


def check_weights(
    target: str,
    path: Path,
    expected: Mapping[str, Array],
    *,
    log: Path | None = None,
    timeout_s: float = READ_TIMEOUT_S,
) -> WeightCheck:
    """Compare every stored weight with `expected` (name -> float32, PyTorch layout, rank >= 2)."""
    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        arrays = _save(expected, Path(folder) / "expected.safetensors")
        answer = isolation.call(
            f"{_MODULE}:check_weights",
            {"target": target, "path": str(path), "expected": arrays},
            what=f"checking the weights of {path.name}",
            timeout_s=timeout_s,
            log=log,
        )
    return WeightCheck.model_validate(answer)


def outputs(
    target: str,
    path: Path,
    inputs: Mapping[str, Array],
    output_names: Sequence[str],
    *,
    threads: int = 1,
    batch: int = 64,
    log: Path | None = None,
    timeout_s: float = RUN_TIMEOUT_S,
) -> dict[str, Array]:
    """Return the file's outputs for all samples, under the model's names and in the model's layout."""
    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        results = Path(folder) / "outputs.safetensors"
        payload = {
            "target": target,
            "path": str(path),
            "inputs": _save(inputs, Path(folder) / "inputs.safetensors"),
            "outputs": str(results),
            "output_names": list(output_names),
            "threads": threads,
            "batch": batch,
        }
        isolation.call(f"{_MODULE}:run_file", payload, what=f"running {path.name}", timeout_s=timeout_s, log=log)
        return dict(load_file(results))


def bench(
    target: str,
    dense: Path,
    pruned: Path,
    inputs: Mapping[str, Array],
    protocol: LatencyProtocol,
    *,
    batch: int = 1,
    log: Path | None = None,
    timeout_s: float = RUN_TIMEOUT_S,
) -> LatencyResult:
    """Measure the pruned file against the dense one, interleaved in one child process."""
    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        payload = {
            "target": target,
            "dense": str(dense),
            "pruned": str(pruned),
            "inputs": _save(inputs, Path(folder) / "inputs.safetensors"),
            "protocol": protocol.model_dump(mode="json"),
            "batch": batch,
        }
        what = f"measuring {pruned.name}"
        answer = isolation.call(f"{_MODULE}:bench_pair", payload, what=what, timeout_s=timeout_s, log=log)
    return LatencyResult.model_validate(answer)


def _save(arrays: Mapping[str, Array], path: Path) -> str:
    save_file({name: contiguous(array) for name, array in arrays.items()}, path)
    return str(path)
