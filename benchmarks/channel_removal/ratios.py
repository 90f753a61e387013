"""Ratios of two variants of one row, with intervals; means and slopes over rows: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdp_export.validation.latency_statistics import compare

_RESAMPLES, _SEED = 4000, 0


@dataclass(frozen=True)
class Ratio:
    """median(first) / median(second) with its 95 % interval, from a bootstrap over rounds."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """Return the three numbers, rounded."""
        return {"ratio": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Compare two variants that were timed in the same rounds, by CPU time."""
    top, bottom = (np.asarray(values)[:, None] for values in (first, second))
    found = compare(top, bottom, _RESAMPLES, _SEED)
    return Ratio(found.ratio, found.interval.low, found.interval.high)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(np.median(values))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return float(np.exp(np.mean(np.log(values))))


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the exponent b of ``seconds = a * sizes ** b`` by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def timed(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the CPU times of every variant of a row that ran."""
    return {name: item["cpu_ms"] for name, item in row["variants"].items() if item["status"] == "ok"}


def fastest(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> str | None:
    """Return which of these variants has the lowest median; None where none ran."""
    return min((name for name in names if name in times), key=lambda name: median(times[name]), default=None)
