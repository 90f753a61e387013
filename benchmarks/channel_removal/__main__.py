"""Command line: ``python -m benchmarks.channel_removal {run,list,summarise}``.

UPSCALE is measured where it is installed: ``pip install --no-deps --target DIR apple-upscale`` (its own
requirements would replace torch), then ``run --upscale DIR``. Torch-Pruning comes with the extra "bench".
Times are the process's CPU time; wall times are recorded beside them.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path

from benchmarks.channel_removal import plan
from benchmarks.channel_removal.machine import environment
from benchmarks.pruning_quality import rows

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Read the command line and do what it says."""
    arguments = _parser().parse_args()
    if arguments.command == "run":
        _run(arguments)
    elif arguments.command == "list":
        for job in _wanted(arguments):
            print(job.key)
    else:
        from benchmarks.channel_removal.summary import summarise

        for gate in summarise(_latest(arguments.results), arguments.output)["gates"]:
            print(f"{gate['verdict']:14s} {gate['gate']}: {gate['found']}", *gate["failed"], sep="\n    ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.channel_removal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "channel_removal.jsonl", help="the rows, appended to")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure what is missing")
    listing = commands.add_parser("list", help="show what is missing")
    for command in (run, listing):
        command.add_argument("--only", metavar="REGEX", help="only rows whose key matches")
    run.add_argument(
        "--upscale", type=Path, default=os.environ.get("UPSCALE_DIR"), help="or UPSCALE_DIR in the environment"
    )
    run.add_argument("--costs", type=Path, default=ROOT / "runs" / "channel_removal", help="remembered times of layers")
    run.add_argument("--seconds", type=float, default=8.0, help="time of the rounds of one row")
    run.add_argument("--rounds", type=int, default=31, help="at most so many")
    summary = commands.add_parser("summarise", help="write channel_removal.json, .md and .png")
    summary.add_argument("--output", type=Path, default=RESULTS)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from benchmarks.channel_removal.experiment import Bench
    from benchmarks.channel_removal.rivals import upscale
    from benchmarks.channel_removal.timing import Effort

    print("UPSCALE is there" if upscale.available(arguments.upscale) else "UPSCALE is missing: its rows say so")
    machine = environment()
    print(f"{machine['cpu']}: {', '.join(machine['instructions'])}; block of {machine['block']} channels")
    bench = Bench(arguments.costs, Effort(arguments.seconds, min(5, arguments.rounds), arguments.rounds))
    for job in _wanted(arguments):
        start = time.monotonic()
        rows.append(arguments.results, bench.row(job))
        print(f"{time.monotonic() - start:6.1f} s  {job.key}", flush=True)


def _wanted(arguments: argparse.Namespace) -> list[plan.Job]:
    done = {row["key"] for row in rows.read(arguments.results)}
    return [job for job in plan.missing(done) if arguments.only is None or re.search(arguments.only, job.key)]


def _latest(path: Path) -> list[rows.Row]:
    return list({row["key"]: row for row in rows.read(path)}.values())


if __name__ == "__main__":
    main()
