"""Measures two files against each other: interleaved random blocks in one process, with an A/A control."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np

from pdp_export.measurements import Execution, LatencyProtocol, LatencyResult
from pdp_export.validation import latency_statistics as statistics
from pdp_export.validation.machine_state import latency_environment, read_state

Array = np.ndarray[Any, Any]
Work = Callable[[], Any]

ARMS = ("dense", "control", "pruned")
_NS_PER_MS = 1e6


def measure(
    openers: dict[str, Callable[[], Work]],
    protocol: LatencyProtocol,
    *,
    runtime: str,
    runtime_version: str,
    batch: int = 1,
    execution: Execution = "physical",
) -> LatencyResult:
    """Measure the pruned file against the dense one.

    Sequential runs find differences between a file and itself, interleaved ones do not; so every
    block runs all three arms, in random order. The control is the dense file, opened once more.

    Args:
        openers: For each of "dense", "control" and "pruned", a function that opens the file and
            returns the function that runs one batch.
        protocol: Blocks, runs, warm-up and seed.
        runtime: Name of the runtime, for the record.
        runtime_version: Its version.
        batch: Samples in one run.
        execution: Where the code runs; only "physical" can ever pass.
    """
    before = read_state()
    work, load_ms, first_ms = {}, {}, {}
    for arm in ARMS:
        work[arm], load_ms[arm] = _timed(openers[arm])
        _, first_ms[arm] = _timed(work[arm])
    samples = _run_blocks(work, protocol)
    drift = max(statistics.drift(samples[arm]) for arm in ("dense", "pruned"))
    environment = latency_environment(before, read_state(), drift)
    comparison = statistics.compare(samples["pruned"], samples["dense"], protocol.bootstrap, protocol.seed)
    control = statistics.compare(samples["control"], samples["dense"], protocol.bootstrap, protocol.seed)
    doubts = statistics.distrust(control, environment, protocol.blocks, execution)
    verdict, reason = statistics.judge_ratio(comparison.interval, 1.0, doubts)
    dense, pruned = (statistics.summarise(samples[a], first_ms[a], load_ms[a]) for a in ("dense", "pruned"))
    return LatencyResult(
        execution=execution,
        runtime=runtime,
        runtime_version=runtime_version,
        batch=batch,
        protocol=protocol,
        dense=dense,
        pruned=pruned,
        comparison=comparison,
        control_aa=control,
        environment=environment,
        verdict=verdict,
        reasons=(reason, *(doubt for doubt in doubts if doubt not in reason)),
    )


def _run_blocks(work: dict[str, Work], protocol: LatencyProtocol) -> dict[str, Array]:
    generator = np.random.default_rng(protocol.seed)
    for _ in range(protocol.warmup):
        for arm in ARMS:
            work[arm]()
    samples = {arm: np.empty((protocol.blocks, protocol.runs_per_block)) for arm in ARMS}
    for block in range(protocol.blocks):
        for index in generator.permutation(len(ARMS)):
            arm = ARMS[index]
            for run in range(protocol.runs_per_block):
                _, samples[arm][block, run] = _timed(work[arm])
    return samples


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter_ns()
    answer = function()
    return answer, (perf_counter_ns() - start) / _NS_PER_MS
