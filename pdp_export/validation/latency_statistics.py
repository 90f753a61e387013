"""The statistics of latency: pure functions from samples to figures and verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdp_export.measurements import (
    Execution,
    Interval,
    LatencyArm,
    LatencyComparison,
    LatencyEnvironment,
)
from pdp_export.results import Verdict

Array = np.ndarray[Any, Any]

MIN_BLOCKS = 30
MIN_SAMPLES_FOR_P99 = 1000
MAX_DRIFT = 0.05
_CHUNK = 500


def summarise(samples_ms: Array, first_ms: float, load_ms: float) -> LatencyArm:
    """Return the figures of one arm from its samples, (blocks, runs_per_block) in milliseconds."""
    p50, p90, p99 = (float(value) for value in np.percentile(samples_ms, (50, 90, 99)))
    return LatencyArm(
        samples_ms=tuple(tuple(round(float(value), 6) for value in block) for block in samples_ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99 if samples_ms.size >= MIN_SAMPLES_FOR_P99 else None,
        mean_ms=float(samples_ms.mean()),
        std_ms=float(samples_ms.std(ddof=1)) if samples_ms.size > 1 else 0.0,
        first_ms=first_ms,
        load_ms=load_ms,
    )


def compare(numerator: Array, denominator: Array, resamples: int, seed: int) -> LatencyComparison:
    """Return median(numerator) / median(denominator) with a block-bootstrap percentile interval, 95 %.

    Both arms, (blocks, runs_per_block), were measured in the same blocks, so blocks are resampled as
    pairs: noise that a block put on both arms stays on both.
    """
    generator = np.random.default_rng(seed)
    blocks = numerator.shape[0]
    ratios = []
    for start in range(0, resamples, _CHUNK):
        chosen = generator.integers(0, blocks, (min(_CHUNK, resamples - start), blocks))
        ratios.append(_medians(numerator, chosen) / _medians(denominator, chosen))
    low, high = np.percentile(np.concatenate(ratios), (2.5, 97.5))
    ratio = float(np.median(numerator) / np.median(denominator))
    return LatencyComparison(ratio=ratio, interval=Interval(low=float(low), high=float(high)))


def _medians(samples: Array, chosen: Array) -> Array:
    return np.median(samples[chosen].reshape(chosen.shape[0], -1), axis=1)


def drift(samples_ms: Array) -> float:
    """Return how far the last third of the blocks is from the first third, as a fraction of the first."""
    third = max(samples_ms.shape[0] // 3, 1)
    return abs(float(np.median(samples_ms[-third:]) / np.median(samples_ms[:third])) - 1)


def distrust(
    control: LatencyComparison, environment: LatencyEnvironment, blocks: int, execution: Execution
) -> tuple[str, ...]:
    """Return why this measurement cannot support a PASS; empty when it can."""
    interval = control.interval
    checks = (
        (
            not interval.contains(1.0),
            f"the A/A control (dense against dense) reads {interval.low:.3f} to {interval.high:.3f}, without 1",
        ),
        (blocks < MIN_BLOCKS, f"{blocks} blocks were measured, at least {MIN_BLOCKS} are needed"),
        (environment.throttled, _throttle_text(environment)),
        (execution != "physical", f"the execution is {execution}, not on a physical device"),
    )
    return tuple(text for applies, text in checks if applies)


def judge_ratio(interval: Interval, limit: float, doubts: tuple[str, ...]) -> tuple[Verdict, str]:
    """Judge pruned / dense against `limit`.

    PASS: the upper bound is under the limit and nothing gives reason for doubt. FAIL: the lower
    bound is at or over it. INCONCLUSIVE otherwise.
    """
    text = f"95 % interval {interval.low:.3f} to {interval.high:.3f}, limit {limit:g}"
    if interval.low >= limit:
        return Verdict.FAIL, f"pruned / dense is not under the limit: {text}"
    if interval.high >= limit:
        return Verdict.INCONCLUSIVE, f"this run cannot tell: {text}"
    if doubts:
        return Verdict.INCONCLUSIVE, "; ".join(doubts)
    return Verdict.PASS, text


def _throttle_text(environment: LatencyEnvironment) -> str:
    if environment.drift > MAX_DRIFT:
        return f"the machine drifted by {environment.drift:.1%} during the run, more than {MAX_DRIFT:.0%}"
    return f"the CPU frequency fell by more than {MAX_DRIFT:.0%} during the run"
