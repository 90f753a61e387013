"""From rows to ``channel_removal.json``, a table and a plot; nothing here but what the rows say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.channel_removal import plan
from benchmarks.channel_removal.gates import against_best_rival, gates, regret
from benchmarks.channel_removal.ratios import median, ratio, timed

Row = Mapping[str, Any]


def summarise(rows: Sequence[Row], output: Path) -> dict[str, Any]:
    """Write the three files into `output`; return what the JSON holds."""
    from benchmarks.channel_removal.plot import draw
    from benchmarks.channel_removal.table import markdown

    summary = summary_of(rows)
    output.mkdir(parents=True, exist_ok=True)
    (output / "channel_removal.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (output / "channel_removal.md").write_text(markdown(summary), encoding="utf-8")
    draw(summary, output / "channel_removal.png")
    return summary


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return cells, gates and the times of planning."""
    order = {job.key: place for place, job in enumerate(plan.jobs())}
    known = sorted((row for row in rows if row["key"] in order), key=lambda row: order[row["key"]])
    return {
        "environment": known[-1]["environment"] if known else {},
        "missing": [job.key for job in plan.missing({row["key"] for row in known})],
        "gates": gates(known),
        "cells": [cell(row) for row in known if "variants" in row],
        "planning": [_planning(row) for row in known if row["runtime"] in ("planning", "growth")],
    }


def cell(row: Row) -> dict[str, Any]:
    """Return one row's figures: every variant's median and its ratio to dense, ours to the best of others."""
    times = timed(row)
    found = {
        "key": row["key"],
        "net": row["net"],
        "kind": row["kind"],
        "ratio": row["ratio"],
        "runtime": row["runtime"],
        "rounds": max((len(values) for values in times.values()), default=0),
        "variants": {name: _variant(item, times, name) for name, item in row["variants"].items()},
    }
    for title, pair in (("ours_over_best_rival", against_best_rival(row)), ("regret", regret(row))):
        if pair is not None:
            found[title] = {"to": pair[0], **pair[1].record()}
    return found


def _variant(item: Row, times: Mapping[str, Sequence[float]], name: str) -> dict[str, Any]:
    if name not in times:
        return {"status": item["status"], "reason": item["reason"]}
    facts = {key: value for key, value in item.items() if key not in ("cpu_ms", "wall_ms")}
    return {
        **facts,
        "median_cpu_ms": round(median(times[name]), 3),
        "median_wall_ms": round(median(item["wall_ms"]), 3),
        **({"over_dense": ratio(times[name], times["dense"]).record()} if "dense" in times else {}),
    }


def _planning(row: Row) -> dict[str, Any]:
    hidden = ("environment", "status", "kind", "ratio")
    return {key: value for key, value in row.items() if key not in hidden}
