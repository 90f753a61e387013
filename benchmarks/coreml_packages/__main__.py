"""Command line: ``python -m benchmarks.coreml_packages [PART ...]``; writes coreml_packages.json and .md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
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
PARTS = ("sizes", "parity", "speed", "damage")


def main() -> None:
    """Measure the named parts, keep the others, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coreml_packages", description=__doc__)
    parser.add_argument("parts", nargs="*", default=[], help=f"any of {', '.join(PARTS)}; default: all")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.output / "coreml_packages.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in arguments.parts or PARTS:
        start = time.perf_counter()
        result[part] = _measure(part)
        result["environment"] = _environment()
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (arguments.output / "coreml_packages.md").write_text(table(result), encoding="utf-8")
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
    print(table(result))


def _measure(part: str) -> Any:
    if part == "sizes":
        return [row for name in ("mobilenet_v1", "resnet18", "vision_transformer") for row in sizes.measure(name)]
    if part == "parity":
        return [parity.measure(name) for name in SUBJECTS]
    return speed.measure() if part == "speed" else damage.measure()


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
