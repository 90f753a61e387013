"""Means, intervals and verdicts: pure functions from numbers to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Return ``{"mean", "low", "high", "n"}``: Student's 95 % interval of the mean; no bounds for one value."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None, "n": count}
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / count**0.5)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": count}


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> dict[str, Any]:
    """Return the interval of ``first - second`` over the seeds that both have.

    Raises:
        ValueError: when they share no seed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ValueError("the two methods share no seed")
    return mean_interval([first[seed] - second[seed] for seed in seeds])


def verdict(difference: Mapping[str, Any]) -> str:
    """Return "better", "worse", "tied" (the interval holds 0) or "unknown" (no interval)."""
    if difference["low"] is None:
        return "unknown"
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "tied"
