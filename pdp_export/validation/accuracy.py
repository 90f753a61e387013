"""Accuracy lost against the dense model, on the same samples: paired statistics, flips, classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np

from pdp_export.errors import DataError
from pdp_export.measurements import AccuracyResult, ClassAccuracy, Interval

Array = np.ndarray[Any, Any]

Z95 = 1.959963984540054
_RESAMPLES = 4000
_BISECTIONS = 60


def compare_predictions(truth: Array, dense: Array, pruned: Array, class_names: Sequence[str] = ()) -> AccuracyResult:
    """Compare predicted classes of the dense model and of a pruned file.

    Args:
        truth: True class of every sample, integers (N,).
        dense: Class predicted by the dense model, (N,).
        pruned: Class predicted by the pruned file, (N,).
        class_names: Name of class 0, 1, ...; the number itself by default.

    Raises:
        DataError: when the three arrays are empty or differ in shape.
    """
    _check_same_length(truth, dense, pruned)
    dense_right, pruned_right = dense == truth, pruned == truth
    lost = int(np.count_nonzero(dense_right & ~pruned_right))
    gained = int(np.count_nonzero(~dense_right & pruned_right))
    both_wrong = ~dense_right & ~pruned_right
    n = int(truth.size)
    return AccuracyResult(
        n=n,
        dense_value=float(dense_right.mean()),
        pruned_value=float(pruned_right.mean()),
        drop=(lost - gained) / n,
        drop_interval=paired_interval(lost, gained, n),
        interval_method="Tango score interval for paired proportions, 95 %",
        dense_correct=int(dense_right.sum()),
        pruned_correct=int(pruned_right.sum()),
        lost=lost,
        gained=gained,
        other_flips=int(np.count_nonzero(both_wrong & (dense != pruned))),
        per_class=_per_class(truth, dense_right, pruned_right, class_names),
    )


def compare_scores(metric: str, dense: Array, pruned: Array, seed: int = 0) -> AccuracyResult:
    """Compare a per-sample score (higher is better) by a paired bootstrap of the mean difference.

    Args:
        metric: Name of the metric, for the report.
        dense: Score of the dense model per sample, (N,).
        pruned: Score of the pruned file per sample, (N,).
        seed: Seed of the resampling.

    Raises:
        DataError: when the arrays are empty, differ in shape or hold a value that is not finite.
    """
    _check_same_length(dense, pruned)
    difference = dense.astype(np.float64) - pruned.astype(np.float64)
    if not np.isfinite(difference).all():
        raise DataError(f"metric {metric!r} gives scores that are NaN or infinite", where="task: metric")
    generator = np.random.default_rng(seed)
    n = difference.size
    means = [difference[generator.integers(0, n, n)].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return AccuracyResult(
        metric=metric,
        n=n,
        dense_value=float(dense.mean()),
        pruned_value=float(pruned.mean()),
        drop=float(difference.mean()),
        drop_interval=Interval(low=float(low), high=float(high)),
        interval_method=f"paired bootstrap of the mean, {_RESAMPLES} resamples, 95 %",
    )


def paired_interval(lost: int, gained: int, n: int) -> Interval:
    """Return the 95 % score interval of the drop (lost - gained) / n.

    It inverts the score test of paired proportions, keeps its coverage for few flips, and stays
    honest without any: (0, 0, n) gives +-z^2 / (n + z^2), not zero width.
    Source: Tango (1998), Statistics in Medicine 17, equations 6 to 8.

    Args:
        lost: Samples right before and wrong after.
        gained: Samples wrong before and right after.
        n: All samples.
    """
    drop = (lost - gained) / n
    low = _bisect(lambda delta: _score(lost, gained, n, delta) > Z95, -1.0, drop)
    high = _bisect(lambda delta: _score(lost, gained, n, delta) >= -Z95, drop, 1.0)
    return Interval(low=low, high=high)


def _score(lost: int, gained: int, n: int, delta: float) -> float:
    b = (2 * n - lost + gained) * delta - lost - gained
    root = sqrt(max(b * b + 8 * n * gained * delta * (1 - delta), 0.0))
    restricted = (root - b) / (4 * n)
    variance = n * (2 * restricted + delta * (1 - delta))
    excess = lost - gained - n * delta
    if variance <= 0:
        return 0.0 if excess == 0 else float("inf") * excess
    return excess / sqrt(variance)


def _bisect(is_left_of_root: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_left_of_root(middle) else (low, middle)
    return (low + high) / 2


def _per_class(
    truth: Array, dense_right: Array, pruned_right: Array, class_names: Sequence[str]
) -> tuple[ClassAccuracy, ...]:
    rows = []
    for index in (int(value) for value in np.unique(truth)):
        members = truth == index
        n = int(members.sum())
        before, after = int(dense_right[members].sum()), int(pruned_right[members].sum())
        label = class_names[index] if 0 <= index < len(class_names) else str(index)
        rows.append(
            ClassAccuracy(label=label, n=n, dense_correct=before, pruned_correct=after, drop=(before - after) / n)
        )
    return tuple(rows)


def _check_same_length(*arrays: Array) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 1 or arrays[0].size == 0:
        raise DataError(
            f"predictions and labels must be equal, non-empty lists, got shapes {[array.shape for array in arrays]}",
            where="validation set",
            hint="the validation loader must give every sample once, in a fixed order",
        )
