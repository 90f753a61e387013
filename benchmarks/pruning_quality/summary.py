"""From rows to ``pruning_quality.json``, a table and a plot; nothing here but what the rows say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.pruning_quality import rows as files
from benchmarks.pruning_quality.ablations import CHANGES
from benchmarks.pruning_quality.choices import on_target, ranking
from benchmarks.pruning_quality.intervals import mean_interval, paired, verdict
from benchmarks.pruning_quality.methods.registry import LEARNING_RATES, METHODS
from benchmarks.pruning_quality.plan import FINAL_SEEDS, SCREEN_SEEDS, TUNE_SEEDS, missing
from benchmarks.pruning_quality.rows import Row
from benchmarks.pruning_quality.tasks import TASKS

MAX_GAP = 0.1  # points between soft and hardened accuracy


def summarise(results: Path, output: Path) -> dict[str, Any]:
    """Read the rows of `results` and write the three files into `output`; return what the JSON holds."""
    from benchmarks.pruning_quality.plot import draw
    from benchmarks.pruning_quality.table import markdown

    done = files.by_key(files.read(results))
    current = [row for row in done.values() if is_current(row)]
    test = [row for row in current if row["split"] == "test"]
    summary = {
        "set_up": _set_up(current),
        "missing": dict(Counter(run.stage for run in missing(done)[0])),
        "comparisons": [
            comparison(found, stage)
            for stage, seeds in (("screen", SCREEN_SEEDS), ("final", FINAL_SEEDS))
            for found in _cells([row for row in _complete(test, seeds) if row["seed"] in seeds])
        ],
        "ablations": ablations([row for row in current if row["split"] == "tuning"]),
        "tuning": _tuning([row for row in current if row["split"] == "tuning"]),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "pruning_quality.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (output / "pruning_quality.md").write_text(markdown(summary), encoding="utf-8")
    draw(summary, output / "pruning_quality.png")
    return summary


def is_current(row: Row) -> bool:
    """Tell whether the row belongs to a method as it is now."""
    return row["method"] in METHODS and row["revision"] == METHODS[row["method"]].revision


def comparison(rows: Sequence[Row], stage: str) -> dict[str, Any]:
    """Compare the methods of one task, pattern and sparsity, all measured on the same seeds.

    The best PDP preset is paired by seed with every other method. Its `standing` is "first" when it is better than
    all methods that are not PDP, outside the interval; "tied" when none of them is better; "behind ..." otherwise.
    """
    methods = {name: [row for row in rows if row["method"] == name] for name in METHODS}
    ranked = ranking(rows)
    scores = {name: {row["seed"]: row["hard"] for row in methods[name]} for name in ranked}
    best = next((name for name in ranked if METHODS[name].family == "pdp"), None)
    pairs = {name: paired(scores[best], scores[name]) for name in ranked if name != best} if best else {}
    pairs = {name: difference | {"verdict": verdict(difference)} for name, difference in pairs.items()}
    return {
        "stage": stage,
        **{field: rows[0][field] for field in ("task", "pattern", "asked")},
        "methods": [_method(name, methods[name]) for name in ranked],
        "failed": [_failure(methods[name][0]) for name in METHODS if methods[name] and name not in ranked],
        "best_pdp": best,
        "best_pdp_minus": pairs,
        "standing": standing({name: pair for name, pair in pairs.items() if METHODS[name].family != "pdp"}),
    }


def ablations(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what each change gains over the method's tuned options, paired by seed, on the tuning part."""
    scores: dict[tuple[str, str, float, str], dict[str, dict[int, float]]] = {}
    for row in rows:
        if row["status"] == "ok":
            group = scores.setdefault((row["task"], row["pattern"], row["asked"], row["method"]), {})
            group.setdefault(json.dumps(row["options"], sort_keys=True), {})[row["seed"]] = row["hard"]
    return [
        {"task": task, "pattern": pattern, "asked": asked, "method": method, "change": dict(change), **gain}
        for (task, pattern, asked, method), found in scores.items()
        for base, before in found.items()
        for change in CHANGES.get(method, ())
        if not dict(change).items() <= json.loads(base).items()
        and (after := found.get(json.dumps(json.loads(base) | dict(change), sort_keys=True)))
        for gain in [paired(after, before)]
        if gain["n"] > 1
    ]


def standing(pairs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return "first", "tied with a, b", "behind c" or "alone" from the paired verdicts against the rivals."""
    if not pairs:
        return "alone"
    ahead = [name for name, pair in pairs.items() if pair["verdict"] == "worse"]
    level = [name for name, pair in pairs.items() if pair["verdict"] in ("tied", "unknown")]
    if ahead:
        return f"behind {', '.join(ahead)}"
    return f"tied with {', '.join(level)}" if level else "first"


def _method(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    gaps = [row["soft"] - row["hard"] for row in rows]
    return {
        "method": name,
        "family": METHODS[name].family,
        "options": rows[0]["options"],
        "seeds": sorted(row["seed"] for row in rows),
        "hard": mean_interval([row["hard"] for row in rows]),
        "values": {row["seed"]: row["hard"] for row in rows},
        "soft_minus_hard": {"mean": fmean(gaps), "largest": max(gaps, key=abs)},
        "sparsity": {"mean": fmean(row["sparsity"] for row in rows), "on_target": all(map(on_target, rows))},
        "macs_kept": fmean(row["macs_kept"] for row in rows),
        "cpu_seconds": fmean(row["cpu_seconds"] for row in rows),
    }


def _failure(row: Row) -> dict[str, str]:
    return {"method": row["method"], "status": row["status"], "reason": row.get("reason", "")}


def _cells(rows: Sequence[Row]) -> list[list[Row]]:
    cells: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["task"], row["pattern"], row["asked"]), []).append(row)
    return [cells[key] for key in sorted(cells)]


def _complete(rows: Sequence[Row], seeds: Sequence[int]) -> list[Row]:
    """Return the rows of the methods that have all `seeds` in a cell: no mean over those that happen to be there."""
    found: dict[tuple[str, str, float, str], set[int]] = {}
    for row in rows:
        found.setdefault(_place(row), set()).add(row["seed"])
    return [row for row in rows if found[_place(row)] >= set(seeds)]


def _place(row: Row) -> tuple[str, str, float, str]:
    return row["task"], row["pattern"], row["asked"], row["method"]


def _tuning(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return every tuning run in short, so that the choice can be followed."""
    names = ("task", "pattern", "asked", "method", "options", "seed", "status")
    return [
        {name: row[name] for name in names} | {name: row[name] for name in ("hard", "sparsity") if name in row}
        for row in rows
    ]


def _set_up(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "tasks": {
            name: {
                "train": task.train_size,
                "tuning": task.tuning_size,
                "epochs": task.epochs,
                "dense_epochs": task.dense_epochs,
                "batch": task.batch,
                "decay": task.decay,
            }
            for name, task in TASKS.items()
        },
        "learning_rates": LEARNING_RATES,
        "knobs": {name: list(entry.knobs) for name, entry in METHODS.items()},
        "seeds": {"tune": TUNE_SEEDS, "screen": SCREEN_SEEDS, "final": FINAL_SEEDS},
        "runs": len(rows),
        "core_hours": round(sum(row["cpu_seconds"] for row in rows) / 3600, 2),
        "versions": _distinct(row["versions"] for row in rows),
        "hardware": _distinct(row["hardware"] for row in rows),
    }


def _distinct(values: Any) -> list[Any]:
    return [json.loads(text) for text in sorted({json.dumps(value, sort_keys=True) for value in values})]
