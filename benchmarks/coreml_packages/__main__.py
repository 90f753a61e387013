"""Command line: ``python -m benchmarks.coreml_packages [PART ...]``; writes coreml_packages.json and .md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import coremltools
import torch

from benchmarks.coreml_packages import damage, parity, sizes, speed
from benchmarks.coreml_packages.subjects import SUBJECTS
from benchmarks.coreml_packages.table import table
from pdp_export.runtimes.mil import interpreter
from pdp_export.runtimes.mil.registry import OPERATORS

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIZED = ("mobilenet_v1", "resnet18", "vision_transformer")
PARTS = ("sizes", "parity", "speed", "damage")


def main() -> None:
    """Measure the named parts, network by network, keep the others, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coreml_packages", description=__doc__)
    parser.add_argument("parts", nargs="*", default=[], help=f"any of {', '.join(PARTS)}; default: all")
    parser.add_argument("--network", action="append", choices=SUBJECTS, help="for sizes and parity; repeatable")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in arguments.parts or PARTS:
        for name, measure in _work(part, arguments.network).items():
            start = time.perf_counter()
            found = measure()
            result = _written(arguments.output, part, name, found)
            print(f"{part} {name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(table(result))


def _work(part: str, networks: list[str] | None) -> dict[str, Callable[[], Any]]:
    if part == "sizes":
        return {name: partial(sizes.measure, name) for name in networks or SIZED}
    if part == "parity":
        return {name: partial(parity.measure, name) for name in networks or SUBJECTS}
    return {"": speed.measure if part == "speed" else damage.measure}


def _written(folder: Path, part: str, name: str, found: Any) -> dict[str, Any]:
    """Put one measurement into the results of earlier ones."""
    path = folder / "coreml_packages.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name:
        result[part] = {**result.get(part, {}), name: found}
    else:
        result[part] = found
    result["environment"] = _environment()
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "coreml_packages.md").write_text(table(result), encoding="utf-8")
    return result


def _environment() -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "threads": 1,
        "python": sys.version.split()[0], "torch": torch.__version__, "coremltools": coremltools.__version__,
        "operators": len(OPERATORS) + len(interpreter.CONTROL),
    }  # fmt: skip


if __name__ == "__main__":
    main()
