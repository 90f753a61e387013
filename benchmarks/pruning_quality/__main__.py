"""Command line: ``python -m benchmarks.pruning_quality {run,list,summarise}``."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from benchmarks.pruning_quality import rows
from benchmarks.pruning_quality.data import DataMissingError
from benchmarks.pruning_quality.experiment import Places, load
from benchmarks.pruning_quality.plan import MORE, STAGES, missing, plan
from benchmarks.pruning_quality.runner import Limits, estimate, run_missing
from benchmarks.pruning_quality.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Read the command line and do what it says."""
    arguments = _parser().parse_args()
    if arguments.command == "run":
        _run(arguments)
    elif arguments.command == "list":
        _list(arguments)
    else:
        from benchmarks.pruning_quality.summary import summarise

        summarise(arguments.results, arguments.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning_quality", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "pruning_quality.jsonl", help="the rows, appended to")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run what is missing")
    listing = commands.add_parser("list", help="show what is missing, and how long it takes")
    for command in (run, listing):
        command.add_argument("--stage", choices=STAGES)
        command.add_argument("--only", metavar="REGEX", help="only runs whose key matches")
    run.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    run.add_argument("--fashion-dir", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    run.add_argument("--cache", type=Path, default=ROOT / "runs" / "pruning_quality", help="dense checkpoints")
    run.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    run.add_argument("--max-minutes", type=float, help="start no run after so long")
    summary = commands.add_parser("summarise", help="write pruning_quality.json, .png and .md")
    summary.add_argument("--output", type=Path, default=RESULTS)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    places = Places(arguments.data_dir, arguments.fashion_dir, arguments.cache)
    limits = Limits(arguments.stage, arguments.only, arguments.max_minutes, arguments.jobs)
    try:
        for task in TASKS.values():
            load(task, places)
    except DataMissingError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{run_missing(arguments.results, places, limits)} runs done")


def _list(arguments: argparse.Namespace) -> None:
    done = rows.by_key(rows.read(arguments.results))
    limits = Limits(arguments.stage, arguments.only)
    runs, waiting = missing(done)
    wanted = [run for run in runs if limits.wants(run)]
    for run in wanted:
        print(run.stage, run.key)
    for text in dict.fromkeys(waiting):
        print("waits:", text)
    print(f"\n{len(plan(done)[0]) - len(runs)} done, {len(wanted)} missing: {estimate(wanted, done):.1f} core-hours")
    print("missing per stage:", dict(Counter(run.stage for run in wanted)))
    print(f"not named yet: runs that wait, also those of {', '.join(f'{name} {share:g}' for name, share in MORE)}")


if __name__ == "__main__":
    main()
