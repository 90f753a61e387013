"""Command line: ``python -m benchmarks.onnx_encoding {run,accuracy,table}``.

``run`` writes ``onnx_encoding.json`` after every cell (one network at one share of zeros) and keeps the cells that are
there; ``accuracy`` adds a trained network; ``table`` writes ``onnx_encoding.md`` from it. Bytes are measured in every
cell, load where ``--load`` says, inference at 90 %. zstd is measured where zstandard is installed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.onnx_encoding import accuracy, experiment, loading, table
from benchmarks.onnx_encoding.subjects import SUBJECTS

RESULTS = Path(__file__).resolve().parents[1] / "results"
LOADED = (0.9, 0.95)
ZEROS = (0.5, 0.75, 0.866, 0.9, 0.95)


def main() -> None:
    """Read the command line and do what it says."""
    arguments = _parser().parse_args()
    if arguments.command == "load":
        loading.load_and_report(arguments.file, arguments.inputs)
        return
    path = arguments.output / "onnx_encoding.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": {}}
    if arguments.command != "table":
        result["environment"] = experiment.environment()
    if arguments.command == "run":
        with tempfile.TemporaryDirectory() as folder:
            for zeros in arguments.zeros or ZEROS:
                for name in arguments.subject or SUBJECTS:
                    cell = f"{name}@{zeros:g}"
                    if cell in result["cells"] and not arguments.again:
                        continue
                    result["cells"][cell] = experiment.measure(
                        name, zeros, Path(folder), loads=arguments.repeats if zeros in (arguments.load or LOADED) else 0
                    )
                    arguments.output.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                    print(cell, flush=True)
    elif arguments.command == "accuracy":
        result["accuracy"] = accuracy.measure(arguments.epochs)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = table.markdown(result)
    (arguments.output / "onnx_encoding.md").write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_encoding", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure what is missing")
    run.add_argument("--subject", action="append", choices=SUBJECTS, help="may be given several times; default: all")
    run.add_argument("--zeros", action="append", type=float, help="share of zeros; may be given several times")
    run.add_argument("--load", action="append", type=float, help="where load is measured (default: 0.9, 0.95)")
    run.add_argument("--repeats", type=int, default=7, help="loads per file")
    run.add_argument("--again", action="store_true", help="measure cells that are there already")
    run.add_argument("--output", type=Path, default=RESULTS)
    trained = commands.add_parser("accuracy", help="int8 beside fp32 on trained digits")
    trained.add_argument("--epochs", type=int, default=3, help="before and after pruning")
    trained.add_argument("--output", type=Path, default=RESULTS)
    shown = commands.add_parser("table", help="write the table from what was measured")
    shown.add_argument("--output", type=Path, default=RESULTS)
    one = commands.add_parser("load", help="load one file and print the cost")
    one.add_argument("file", type=Path)
    one.add_argument("inputs", type=Path)
    return parser


if __name__ == "__main__":
    main()
