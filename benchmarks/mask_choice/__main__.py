"""Command line: ``python -m benchmarks.mask_choice {run,list,summarise}``.

``run`` trains what is missing, then measures all networks side by side. Dense checkpoints are shared with
``benchmarks.pruning_quality``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.channel_removal.timing import Effort
from benchmarks.mask_choice.plan import missing, runs
from benchmarks.pruning_quality import rows

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Read the command line and do what it says."""
    arguments = _parser().parse_args()
    if arguments.command == "run":
        _run(arguments)
    elif arguments.command == "list":
        for run in missing(_done(arguments.results)):
            print(run.key)
    else:
        from benchmarks.mask_choice.summary import markdown, summarise

        print(markdown(summarise(_latest(arguments.results), arguments.output)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mask_choice", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "mask_choice.jsonl", help="the rows, appended to")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is missing, then measure")
    commands.add_parser("list", help="show what is missing")
    run.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    run.add_argument("--cache", type=Path, default=ROOT / "runs" / "pruning_quality", help="dense checkpoints")
    run.add_argument("--networks", type=Path, default=ROOT / "runs" / "mask_choice", help="finished networks")
    run.add_argument("--most", type=int, help="train at most so many")
    run.add_argument("--batch", type=int, default=1, help="images in one run of the latencies")
    run.add_argument("--seconds", type=float, default=30.0, help="time of the rounds")
    summary = commands.add_parser("summarise", help="write mask_choice.json, .md and .png")
    summary.add_argument("--output", type=Path, default=RESULTS)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from benchmarks.mask_choice.latency import measured
    from benchmarks.mask_choice.training import trained
    from benchmarks.pruning_quality.experiment import Places

    places = Places(arguments.data_dir, Path(), arguments.cache)
    for run in missing(_done(arguments.results))[: arguments.most]:
        start = time.monotonic()
        row = trained(run, places, arguments.networks)
        rows.append(arguments.results, row)
        print(f"{time.monotonic() - start:6.1f} s  {row['accuracy']:.2f} %  {run.key}", flush=True)
    done = _done(arguments.results)
    finished = [run for run in runs() if run.key in done and (arguments.networks / run.file).exists()]
    effort = Effort(arguments.seconds, 11, 101)
    rows.append(arguments.results, measured(finished, arguments.networks, effort, batch=arguments.batch))
    print(f"latencies of {len(finished)} networks measured")


def _done(path: Path) -> set[str]:
    return {row["key"] for row in rows.read(path)}


def _latest(path: Path) -> list[rows.Row]:
    return list({row["key"]: row for row in rows.read(path)}.values())


if __name__ == "__main__":
    main()
