"""Choices that follow from rows alone: the best hyper-parameters, and who did best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.pruning_quality.rows import Row

TOLERANCE = 0.005  # of the sparsity asked for; rows outside do not compete with rows inside


def best_options(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the options with the best hardened accuracy, averaged over seeds; ties go to the earlier ones.

    Where a method misses the sparsity with some options, those lose to options that meet it. When no row
    is "ok" the first options are returned, so that the later stages record the same failure.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            groups.setdefault(json.dumps(row["options"], sort_keys=True), []).append(row)
    if not groups:
        return dict(rows[0]["options"])
    best = max(groups.values(), key=lambda group: (all(map(on_target, group)), fmean(row["hard"] for row in group)))
    return dict(best[0]["options"])


def on_target(row: Row) -> bool:
    """Tell whether the row reached the sparsity asked for; channel counts are rounded, so they are exempt."""
    return row["pattern"] in ("channel", "dense") or abs(row["sparsity"] - row["asked"]) <= TOLERANCE


def ranking(rows: Sequence[Row]) -> list[str]:
    """Return the methods from best to worst by mean hardened accuracy; only those with every row "ok"."""
    methods: dict[str, list[Row]] = {}
    for row in rows:
        methods.setdefault(row["method"], []).append(row)
    whole = {name: found for name, found in methods.items() if all(row["status"] == "ok" for row in found)}
    return sorted(whole, key=lambda name: -fmean(row["hard"] for row in whole[name]))
