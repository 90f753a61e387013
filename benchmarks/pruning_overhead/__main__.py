"""Command line: ``python -m benchmarks.pruning_overhead {run,memory-of}``.

``run`` writes ``pruning_overhead.json`` and ``.png``; a network that was measured before is kept unless it is
named again. The arms are named ``method/steps between two threshold selections``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.pruning_overhead import memory, timing
from benchmarks.pruning_overhead.arms import ARMS, SPARSITY, pruned_layers
from benchmarks.pruning_overhead.plot import draw
from benchmarks.pruning_overhead.subjects import SUBJECTS, Subject

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    """Read the command line and do what it says."""
    arguments = _parser().parse_args()
    if arguments.command == "memory-of":
        memory.train_and_report(arguments.subject, arguments.arm, arguments.batch)
        return
    torch.set_num_threads(1)
    path = arguments.output / "pruning_overhead.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"subjects": {}}
    result |= {"sparsity": SPARSITY, "environment": _environment()}
    for name in arguments.subject or SUBJECTS:
        result["subjects"][name] = _measure(SUBJECTS[name], arguments)
        arguments.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        _show(name, result["subjects"][name])
    draw(result, arguments.output / "pruning_overhead.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning_overhead", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure time and memory")
    run.add_argument("--subject", action="append", choices=SUBJECTS, help="may be given several times; default: all")
    run.add_argument("--arm", action="append", choices=ARMS, help="may be given several times; dense is always there")
    run.add_argument("--batch", type=int, help="instead of the network's own batch")
    run.add_argument(
        "--blocks", type=int, help=f"blocks of {timing.PERIOD} steps per arm, instead of the network's own"
    )
    run.add_argument("--output", type=Path, default=RESULTS)
    one = commands.add_parser("memory-of", help="train a few steps and print the process's memory")
    one.add_argument("subject", choices=SUBJECTS)
    one.add_argument("arm", choices=ARMS)
    one.add_argument("batch", type=int)
    return parser


def _measure(subject: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    arms = list(dict.fromkeys(["dense", "again", *(arguments.arm or ARMS)]))
    batch = arguments.batch or subject.batch
    model = subject.model()
    weights = dict(model.named_parameters())
    pruned = sum(weights[f"{name}.weight"].numel() for name in pruned_layers(model))
    return {
        "inputs": subject.inputs,
        "optimizer": subject.optimizer,
        "parameters": sum(weight.numel() for weight in weights.values()),
        "prunable_weights": pruned,
        "time": timing.measure(subject, arms, batch, arguments.blocks or subject.blocks),
        "memory": memory.measure(subject.name, arms, batch),
    }


def _show(name: str, item: dict[str, Any]) -> None:
    print(f"{name}: batch {item['time']['batch']}, {item['inputs']}, {item['prunable_weights']:,} prunable weights")
    for arm, found in item["time"]["arms"].items():
        peak = f"  memory {item['memory'][arm]['ratio']:.3f}" if arm in item["memory"] else ""
        interval = f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
        print(f"  {arm:16s} {found['step_ms']:9.2f} ms  {interval}{peak}", flush=True)


def _environment() -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
