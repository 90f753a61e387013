"""Measures the demo: wall time, largest process, sizes, accuracies, errors and latencies; and ``--help``.

Writes ``benchmarks/results/demo_figures.json``. Wall time is one run of each recipe; latencies are the
run's own (interleaved, with intervals); the time of ``--help`` is the median of 20 starts.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "sample_models" / "recipes"
TOOL = [sys.executable, "-m", "pdp_export"]
HELP_STARTS = 20


def main() -> None:
    """Run both recipes of the demo and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "demo_figures.json")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(temporary)
        dense = runs / "unstructured" / "stages" / "02-train-dense" / "model.safetensors"
        figures = {
            "unstructured": _run("digits_unstructured.yaml", runs / "unstructured"),
            "channel": _run("digits_channel.yaml", runs / "channel", "--weights", str(dense)),
        }
    largest_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result = {
        "help_seconds": {"median": statistics.median(_help_seconds()), "starts": HELP_STARTS},
        "largest_process_bytes": largest_kib * 1024,
        "environment": figures["unstructured"]["environment"],
        "runs": figures,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=2))
    for name, run in figures.items():
        print(name, f"{run['wall_seconds']:.1f} s")
        for row in run["targets"]:
            print("  ", json.dumps(row))


def _run(recipe: str, folder: Path, *flags: str) -> dict[str, Any]:
    start = time.perf_counter()
    command = [*TOOL, "prune-and-convert", "--recipe", str(RECIPES / recipe), "--output", str(folder), "--json", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    report = json.loads(done.stdout)
    return {
        "wall_seconds": seconds,
        "environment": report["environment"],
        "dense_accuracy": report["dense_reference"]["value"],
        "soft_hard_gap": report["soft_hard_gap"],
        "counts_before": report["counts_before"],
        "counts_after": report["counts_after"],
        "stage_seconds": {stage["name"]: stage["seconds"] for stage in report["stages"]},
        "targets": [_row(target) for target in report["targets"]],
    }


def _row(target: dict[str, Any]) -> dict[str, Any]:
    size, accuracy, latency = target["size"], target["accuracy"], target["latency"]
    return {
        "target": target["target"],
        "verdict": target["verdict"],
        "bytes": size["pruned_bytes"],
        "dense_bytes": size["dense_bytes"],
        "gzip_bytes": size["pruned_gzip_bytes"],
        "dense_gzip_bytes": size["dense_gzip_bytes"],
        "weights": target["weights"]["verdict"],
        "accuracy": accuracy["pruned_value"] if accuracy else None,
        "drop": accuracy["drop"] if accuracy else None,
        "drop_interval": accuracy["drop_interval"] if accuracy else None,
        "max_abs": max((item["max_abs"] for item in target["parity"]), default=None),
        "relative_error": max((item["relative_to_range"] for item in target["parity"]), default=None),
        "dense_p50_ms": latency["dense"]["p50_ms"] if latency else None,
        "p50_ms": latency["pruned"]["p50_ms"] if latency else None,
        "ratio": latency["comparison"] if latency else None,
        "control": latency["control_aa"] if latency else None,
    }


def _help_seconds() -> list[float]:
    times = []
    for _ in range(HELP_STARTS):
        start = time.perf_counter()
        subprocess.run([*TOOL, "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
