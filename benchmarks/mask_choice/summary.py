"""From rows to ``mask_choice.json``, a table and a plot: means over seeds, and accuracy at equal latency."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.channel_removal.ratios import median
from benchmarks.mask_choice.latency import KEY
from benchmarks.mask_choice.plan import DENSE, KINDS, missing
from benchmarks.pruning_quality.intervals import mean_interval, paired, verdict

Row = Mapping[str, Any]
GRID = 5
"""Latencies at which kinds are compared, spread over the range that all of them reach."""


def summarise(rows: Sequence[Row], output: Path) -> dict[str, Any]:
    """Write the three files into `output`; return what the JSON holds."""
    from benchmarks.mask_choice.plot import draw

    summary = summary_of(rows)
    output.mkdir(parents=True, exist_ok=True)
    (output / "mask_choice.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (output / "mask_choice.md").write_text(markdown(summary), encoding="utf-8")
    draw(summary, output / "mask_choice.png")
    return summary


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return points (a kind at a sparsity), and the kinds compared at equal latency."""
    times = next((row for row in reversed(rows) if row["key"] == KEY), None)
    trained = {row["key"]: row for row in rows if row["key"] != KEY}
    known = {} if times is None else times["runs"]
    joined = [
        {**row, **known[key], "latency_ms": median(known[key]["cpu_ms"])}
        for key, row in trained.items()
        if key in known
    ]
    curves = _curves(joined)
    return {
        "environment": {} if times is None else times["environment"],
        "batch": None if times is None else times.get("batch", 1),
        "missing": [run.key for run in missing(trained)],
        "points": _points(joined),
        "equal_latency": compared(curves),
    }


def compared(curves: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]]) -> dict[str, Any]:
    """Compare kinds at latencies that every kind and seed reaches.

    `curves` are (latency, accuracy) by kind and seed. Each seed's accuracy is read off its own curve, straight
    between two points, and averaged over the latencies; kinds are then paired by seed.
    """
    whole = {kind: seeds for kind, seeds in curves.items() if seeds}
    if len(whole) < 2:
        return {}
    ends = [sorted(point[0] for point in curve) for seeds in whole.values() for curve in seeds.values()]
    low, high = max(end[0] for end in ends), min(end[-1] for end in ends)
    if not low < high:
        return {"low_ms": low, "high_ms": high, "verdicts": {}, "note": "no latency is reached by all"}
    grid = np.linspace(low, high, GRID)
    means = {
        kind: {seed: float(np.mean(_read_off(curve, grid))) for seed, curve in seeds.items()}
        for kind, seeds in whole.items()
    }
    pairs = [(first, second) for first in whole for second in whole if first < second]
    differences = {f"{first} - {second}": paired(means[first], means[second]) for first, second in pairs}
    return {
        "low_ms": round(low, 5),
        "high_ms": round(high, 5),
        "accuracy": {kind: mean_interval(list(found.values())) for kind, found in means.items()},
        "differences": {name: found | {"verdict": verdict(found)} for name, found in differences.items()},
    }


def _read_off(curve: Sequence[tuple[float, float]], grid: Any) -> Any:
    latencies, accuracies = zip(*sorted(curve), strict=True)
    return np.interp(grid, latencies, accuracies)


def _curves(rows: Sequence[Row]) -> dict[str, dict[int, list[tuple[float, float]]]]:
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {kind: {} for kind in KINDS}
    dense = {row["seed"]: (row["latency_ms"], row["accuracy"]) for row in rows if row["kind"] == DENSE}
    for row in rows:
        if row["kind"] != DENSE:
            curve = curves[row["kind"]].setdefault(row["seed"], [dense[row["seed"]]] if row["seed"] in dense else [])
            curve.append((row["latency_ms"], row["accuracy"]))
    return curves


def _points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["asked"]), []).append(row)
    return [
        {
            "kind": kind,
            "asked": asked,
            "seeds": [row["seed"] for row in group],
            **{name: mean_interval([row[name] for row in group]) for name in ("accuracy", "latency_ms", "macs")},
            "values": [(row["latency_ms"], row["accuracy"]) for row in group],
        }
        for (kind, asked), group in sorted(groups.items())
    ]


def markdown(summary: Mapping[str, Any]) -> str:
    """Return both tables."""
    lines = ["| masks | asked | accuracy, % | latency, ms | MACs kept |", "| --- " * 5 + "|"]
    for point in summary["points"]:
        cells = (_show(point["accuracy"], ".2f"), _show(point["latency_ms"], ".4f"), _show(point["macs"], ".3f"))
        lines.append(f"| {point['kind']} | {point['asked']:g} | {' | '.join(cells)} |")
    equal = summary["equal_latency"]
    if equal.get("accuracy"):
        lines += ["", f"Mean accuracy between {equal['low_ms']:.4f} and {equal['high_ms']:.4f} ms:", ""]
        lines += [f"- {kind}: {_show(found, '.2f')} %" for kind, found in equal["accuracy"].items()]
        lines += [
            f"- {name}: {_show(found, '+.2f')} ({found['verdict']})" for name, found in equal["differences"].items()
        ]
    if summary["missing"]:
        lines += ["", f"Missing: {', '.join(summary['missing'])}."]
    return "\n".join(lines) + "\n"


def _show(value: Mapping[str, Any], form: str) -> str:
    if value["low"] is None:
        return f"{value['mean']:{form}}"
    return f"{value['mean']:{form}} ± {value['high'] - value['mean']:.{form[-2]}f}"
