"""The statistics and gates of the benchmark of channel removal, on rows made up for them."""

from __future__ import annotations

import json

import pytest

from benchmarks.channel_removal import plan
from benchmarks.channel_removal.gates import against_best_rival, gates, regret
from benchmarks.channel_removal.machine import block
from benchmarks.channel_removal.ratios import geometric_mean, ratio, slope
from benchmarks.channel_removal.summary import summarise
from benchmarks.channel_removal.timing import Effort, interleave

TIMES = {
    "dense": 10.0, "naive": 8.0, "upscale": 7.5, "upscale16": 7.0, "union16": 6.0,
    "never1": 9.0, "always1": 6.5, "ours": 5.0, "tied": 3.0, "torch_pruning16": 3.0, "again": 10.0,
}  # fmt: skip
WOBBLE = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0)


def row(job, times, instructions=("avx2",)):
    """Return a row with these medians."""
    variants = {
        name: {"status": "ok", "error": 0.0, "cpu_ms": [value * w for w in WOBBLE], "wall_ms": [value] * len(WOBBLE)}
        for name, value in times.items()
    }
    variants["ours"] |= {"plan_cpu_s": 4.0, "plan_cached_cpu_s": 1.0}
    variants["lost"] = {"status": "failed", "reason": "no way"}
    return {
        "key": job.key, "net": job.net, "kind": job.kind, "ratio": job.ratio, "runtime": job.runtime,
        "variants": variants, "environment": environment(instructions),
    }  # fmt: skip


def environment(instructions):
    """Return what rows say about their machine."""
    return {"cpu": "x", "cores": 1, "instructions": list(instructions), "block": 8, "versions": {"torch": "2"}}


def full(times=TIMES, changes=None, instructions=("avx2",)):
    """Return rows for every cell, planning and growth; `changes` are times by key."""
    changes = changes or {}
    rows = []
    for job in plan.jobs():
        if job.runtime == "growth":
            facts = {
                "layers": 16 * job.depth,
                "plan_s": 0.1 * job.depth,
                "plan_cpu_s": 0.1 * job.depth,
                "depth": job.depth,
            }
            rows.append({"key": job.key, "net": job.net, "runtime": "growth", **facts})
        elif job.runtime == "planning":
            facts = {"plan_s": 2.0, "plan_cpu_s": 2.0, "total_s": 8.0, "total_cpu_s": 8.0}
            rows.append({"key": job.key, "net": job.net, "runtime": "planning", **facts})
        else:
            own = {name: value for name, value in times.items() if name != "tied" or job.kind == "columns"}
            rows.append(row(job, own | changes.get(job.key, {}), instructions))
    for item in rows:
        item.setdefault("environment", environment(instructions))
    return rows


def verdict(rows, start):
    """Return the verdict of the one gate whose name starts so."""
    (gate,) = [gate for gate in gates(rows) if gate["gate"].startswith(start)]
    return gate["verdict"]


def test_everything_passes_when_all_is_well():
    """A gate that cannot pass says nothing when it fails."""
    verdicts = {gate["verdict"] for gate in gates(full())}
    assert verdicts <= {"pass", "report", "not applicable"}


def test_one_slow_cell_fails_the_first_gate_and_is_named():
    """Averages must not hide a network that became slower than it was."""
    key = "densenet121/columns/0.5/torch"
    rows = full(changes={key: {"ours": 6.5}})
    (gate,) = [gate for gate in gates(rows) if gate["gate"].startswith("never slower")]
    assert gate["verdict"] == "fail"
    assert [text.split(":")[0] for text in gate["failed"]] == [key]


def test_three_per_cent_are_allowed():
    """The interval must exclude 1.03, not 1."""
    rows = full(changes={"resnet18/columns/0.5/torch": {"ours": 6.1}})
    assert verdict(rows, "never slower") == "pass"


def test_rivals_of_another_function_do_not_count():
    """Torch-Pruning computes less; it is the floor."""
    best, found = against_best_rival(next(item for item in full() if item["runtime"] == "torch"))
    assert best == "union16"
    assert found.value == pytest.approx(5 / 6, rel=1e-6)


@pytest.mark.parametrize(("ours", "expected"), [(3.5, "pass"), (5.0, "fail")])
def test_twice_upscale_counts_with_avx512_only(ours, expected):
    """The promise is about the 16-channel blocks of AVX-512."""
    changes = {"mobilenet_v2/columns/0.37/onnxruntime": {"ours": ours}}
    assert verdict(full(changes=changes), "at least 2x") == "not applicable"
    assert verdict(full(changes=changes, instructions=("avx2", "avx512f")), "at least 2x") == expected


def test_regret_is_against_every_whole_network_plan():
    """Constant policies are candidates too, and ours as well: no regret is under 1."""
    cell = next(item for item in full(changes={}) if item["runtime"] == "torch")
    assert regret(cell)[0] == "ours"
    cell["variants"]["always1"]["cpu_ms"] = [4 * w for w in WOBBLE]
    best, found = regret(cell)
    assert best == "always1"
    assert found.value == pytest.approx(1.25)


def test_a_policy_that_wins_everywhere_fails_the_gate():
    """If one rule were best, nobody would need costs."""
    rows = full(TIMES | {"always1": 4.0})
    assert verdict(rows, "the constant policy always1 loses to ours on at least 3 networks, torch") == "fail"
    assert verdict(rows, "the constant policy never1 loses to ours on at least 3 networks, torch") == "pass"


def test_missing_rows_are_not_a_pass():
    """Half a benchmark proves half."""
    rows = [item for item in full() if item["net"] == "resnet18"]
    assert verdict(rows, "never slower") == "incomplete"
    assert (
        verdict(rows, "at least 1.2x UPSCALE, geometric mean over all networks and both ratios, torch") == "incomplete"
    )


def test_slow_planning_fails_by_name():
    """Seconds are a promise too."""
    rows = full()
    next(item for item in rows if item["key"] == "planning/resnet50")["plan_cpu_s"] = 6.0
    assert verdict(rows, "planning without measuring") == "fail"


def test_growth_is_the_slope_of_logarithms():
    """Quadratic growth has exponent 2, and fails."""
    assert slope([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    rows = full()
    for item in rows:
        if item["runtime"] == "growth":
            item["plan_cpu_s"] = item["layers"] ** 2
    assert verdict(rows, "planning time grows") == "fail"


def test_an_interval_covers_noise_that_both_share():
    """Rounds are resampled as pairs: a slow round is slow for both."""
    noise = [1.0, 3.0, 1.1, 2.0, 1.0, 5.0, 1.3]
    found = ratio([2 * value for value in noise], noise)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    assert geometric_mean([1, 4]) == pytest.approx(2)


def test_every_other_round_runs_in_reverse():
    """Drift within a round must not favour those that come first."""
    calls = []
    work = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    samples = interleave(work, Effort(0, 3, 3))
    assert "".join(calls[6:]) == "abccbaabc"
    assert samples["a"].cpu.shape == (3,)


def test_keys_are_unique_and_rows_are_found_again():
    """Two jobs with one key would be measured once."""
    keys = [job.key for job in plan.jobs()]
    assert len(keys) == len(set(keys))
    assert [job.key for job in plan.missing(set(keys[1:]))] == keys[:1]


def test_block_follows_the_instructions():
    """The widths that ONNX Runtime likes are twice as wide with AVX-512."""
    assert block(["avx2", "fma"]) == 8
    assert block(["avx2", "avx512f"]) == 16


def test_summary_writes_all_three_files(tmp_path):
    """Also for half a run, whose plot has gaps."""
    summary = summarise(full()[3:], tmp_path)
    assert summary["missing"]
    assert json.loads((tmp_path / "channel_removal.json").read_text()) == summary
    text = (tmp_path / "channel_removal.md").read_text()
    assert "lost failed: no way" in text
    assert "block of 8 channels" in text
    assert (tmp_path / "channel_removal.png").stat().st_size > 1000
    summarise([], tmp_path)
