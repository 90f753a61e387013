"""Time per training step: all arms in one process, interleaved in random blocks.

One sample is the mean over the `PERIOD` steps of a block: a threshold that is selected every sixteenth step
costs nothing in seven of them, and a median over single steps would not see it. The clock is the process's CPU
time: with one thread it is the wall time of a quiet machine, and it stays so on a busy one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.pruning_overhead.arms import NotInstalledError, attach
from benchmarks.pruning_overhead.subjects import Subject, step
from pdp_export.validation.latency_statistics import compare, drift

PERIOD = 16
_RESAMPLES, _SEED = 5000, 0
Array = np.ndarray[Any, Any]


def measure(subject: Subject, arms: Sequence[str], batch: int, blocks: int) -> dict[str, Any]:
    """Return the figures of every arm, and its ratio to dense with a block-bootstrap interval, 95 %."""
    work, missing = _attach(subject, arms, batch)
    samples = interleave(work, blocks)
    return {
        "batch": batch,
        "blocks": blocks,
        "steps_per_block": PERIOD,
        "drift_of_dense": round(drift(samples["dense"]), 4),
        "arms": {name: figures(found, samples["dense"]) for name, found in samples.items()},
        "not_installed": missing,
    }


def interleave(work: dict[str, Callable[[], None]], blocks: int) -> dict[str, Array]:
    """Run every arm once per block, in random order; return mean step times, (blocks, 1), in milliseconds.

    The first block warms up and is not counted.
    """
    generator = np.random.default_rng(_SEED)
    names = list(work)
    samples = {name: np.empty((blocks, 1)) for name in names}
    for block in range(-1, blocks):
        for index in generator.permutation(len(names)):
            start = time.process_time_ns()
            for _ in range(PERIOD):
                work[names[index]]()
            if block >= 0:
                samples[names[index]][block, 0] = (time.process_time_ns() - start) / 1e6 / PERIOD
    return samples


def figures(samples: Array, dense: Array) -> dict[str, Any]:
    """Return the median step, its ratio to dense and what it adds, from samples in milliseconds."""
    ratio = compare(samples, dense, _RESAMPLES, _SEED)
    return {
        "step_ms": round(float(np.median(samples)), 3),
        "ratio": round(ratio.ratio, 4),
        "low": round(ratio.interval.low, 4),
        "high": round(ratio.interval.high, 4),
        "added_ms": round(float(np.median(samples - dense)), 3),
        "samples_ms": [round(float(value), 3) for value in samples[:, 0]],
    }


def _attach(subject: Subject, arms: Sequence[str], batch: int) -> tuple[dict[str, Callable[[], None]], list[str]]:
    work, missing = dict[str, Callable[[], None]](), list[str]()
    data = subject.data(batch)
    for name in arms:
        model = subject.model()
        try:
            after = attach(name, model)
        except NotInstalledError:
            missing.append(name)
            continue
        optimizer = subject.make_optimizer(model)

        def once(model: Any = model, optimizer: Any = optimizer, after: Callable[[], None] = after) -> None:
            step(model, optimizer, data)
            after()
            optimizer.zero_grad()  # frees the gradients, so that many arms fit into memory side by side

        work[name] = once
    return work, missing
