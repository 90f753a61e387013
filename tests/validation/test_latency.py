"""Latency: the statistics on made-up samples, the order of the runs, and the rule of the verdict."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from pdp_export.measurements import Interval, LatencyComparison, LatencyEnvironment, LatencyProtocol
from pdp_export.results import Verdict
from pdp_export.validation import latency
from pdp_export.validation.latency_statistics import compare, distrust, drift, judge_ratio, summarise

FAST = LatencyProtocol(blocks=40, runs_per_block=3, warmup=2, bootstrap=1000)


def _noisy(seed, scale=1.0, blocks=40):
    """Samples with noise shared by a block, as a busy host makes it."""
    generator = np.random.default_rng(seed)
    block = np.exp(0.1 * generator.standard_normal((blocks, 1)))
    return scale * block * np.exp(0.02 * generator.standard_normal((blocks, 3)))


def test_a_against_a_contains_one():
    """Dense against dense must not be found different more often than the interval's 5 % allows."""
    hits = 0
    for seed in range(100):
        block = np.exp(0.1 * np.random.default_rng(seed).standard_normal((40, 1)))
        first, second = _noisy(1000 + seed) * block, _noisy(2000 + seed) * block
        hits += compare(first, second, 500, 0).interval.contains(1.0)
    assert hits >= 90


def test_shared_noise_cancels():
    """Pairs of blocks are resampled: noise on both arms must not widen the interval."""
    dense = _noisy(1)
    comparison = compare(dense * 0.9, dense, 1000, 0)
    assert comparison.ratio == pytest.approx(0.9)
    assert comparison.interval.high - comparison.interval.low < 1e-9


def test_the_interval_is_reproducible():
    """A fixed seed gives the same interval, so a report can be recomputed from its raw samples."""
    assert compare(_noisy(1), _noisy(2), 4000, 0) == compare(_noisy(1), _noisy(2), 4000, 0)


def test_p99_needs_a_thousand_samples():
    """The 99th percentile of 120 samples is its second largest: not reported."""
    assert summarise(_noisy(0), 1.0, 1.0).p99_ms is None
    assert summarise(_noisy(0, blocks=334), 1.0, 1.0).p99_ms is not None


def test_drift_is_seen():
    """A machine that gets 8 % slower during the run must be flagged; a steady one not."""
    steady = np.ones((30, 3))
    assert drift(steady) == 0
    assert drift(steady * np.linspace(1, 1.12, 30)[:, None]) > 0.05


@pytest.mark.parametrize(
    ("low", "high", "doubts", "verdict"),
    [
        (0.5, 0.6, (), Verdict.PASS),
        (0.5, 0.6, ("the control is off",), Verdict.INCONCLUSIVE),
        (0.9, 1.1, (), Verdict.INCONCLUSIVE),
        (1.01, 1.2, ("the control is off",), Verdict.FAIL),
    ],
)
def test_rule_of_the_verdict(low, high, doubts, verdict):
    """PASS needs the whole interval under the limit and no doubt."""
    assert judge_ratio(Interval(low=low, high=high), 1.0, doubts)[0] is verdict


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": (1.01, 1.05)}, "A/A control"),
        ({"blocks": 29}, "29 blocks"),
        ({"throttled": True}, "frequency"),
        ({"drift": 0.06, "throttled": True}, "drifted by 6.0%"),
        ({"execution": "emulated"}, "emulated"),
    ],
)
def test_each_doubt_is_named(change, words):
    """Whatever forbids a PASS must be said in words."""
    low, high = change.get("control", (0.98, 1.02))
    control = LatencyComparison(ratio=1.0, interval=Interval(low=low, high=high))
    environment = LatencyEnvironment(drift=change.get("drift", 0.0), throttled=change.get("throttled", False))
    doubts = distrust(control, environment, change.get("blocks", 40), change.get("execution", "physical"))
    assert len(doubts) == 1
    assert words in doubts[0]


@dataclass
class _Clock:
    """A clock that only moves when work is done, so that the test has no noise."""

    now: int = 0
    calls: list[str] = field(default_factory=list)

    def opener(self, name, milliseconds):
        def work():
            self.calls.append(name)
            self.now += int(milliseconds * 1e6)

        def open_file():
            self.now += 5_000_000
            return work

        return open_file


@pytest.fixture
def clock(monkeypatch):
    made = _Clock()
    monkeypatch.setattr(latency, "perf_counter_ns", lambda: made.now)
    return made


def _measure(clock, dense=2.0, pruned=1.0, control=2.0, protocol=FAST):
    openers = {
        "dense": clock.opener("dense", dense),
        "control": clock.opener("control", control),
        "pruned": clock.opener("pruned", pruned),
    }
    return latency.measure(openers, protocol, runtime="fake", runtime_version="1")


def test_runs_are_interleaved_in_random_order(clock):
    """Sequential arms find differences between a file and itself: every block must hold all arms, shuffled."""
    _measure(clock)
    calls = clock.calls[3 + 3 * FAST.warmup :]
    blocks = [tuple(calls[start : start + 9 : 3]) for start in range(0, len(calls), 9)]
    assert len(blocks) == FAST.blocks
    assert all(sorted(block) == ["control", "dense", "pruned"] for block in blocks)
    assert len(set(blocks)) == 6


def test_faster_slower_and_broken_control(clock):
    """The verdict says whether the file is shown to be faster, and a control that is off forbids it."""
    faster = _measure(clock)
    assert faster.verdict is Verdict.PASS
    assert faster.comparison.ratio == pytest.approx(0.5)
    assert (faster.dense.load_ms, faster.dense.first_ms) == (5.0, 2.0)
    assert _measure(clock, pruned=3.0).verdict is Verdict.FAIL
    off = _measure(clock, control=2.4)
    assert off.verdict is Verdict.INCONCLUSIVE
    assert "A/A" in off.reasons[0]


def test_result_travels_as_json(clock):
    """Raw samples and all records survive a JSON round trip."""
    result = _measure(clock)
    assert type(result).model_validate_json(result.model_dump_json()) == result
