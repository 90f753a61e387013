"""Statistics and verdicts of the quality benchmark."""

from __future__ import annotations

import json

import pytest
from scipy import stats

from benchmarks.pruning_quality import rows
from benchmarks.pruning_quality.intervals import mean_interval, paired, verdict
from benchmarks.pruning_quality.methods.registry import METHODS
from benchmarks.pruning_quality.summary import ablations, comparison, standing, summarise


def row(method, seed, hard, soft=None, **changes):
    """Return a finished screening row."""
    return {
        "key": f"{method}{seed}{changes}",
        "stage": "screen",
        "task": "cifar-resnet8",
        "pattern": "unstructured",
        "asked": 0.9,
        "method": method,
        "family": "",
        "revision": 1,
        "options": {"lr": 0.1},
        "seed": seed,
        "split": "test",
        "status": "ok",
        "soft": hard if soft is None else soft,
        "hard": hard,
        "sparsity": 0.9,
        "macs_kept": 0.2,
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "versions": {"torch": "2"},
        "hardware": {"cpu": "x"},
    } | changes


def test_interval_is_students():
    """A normal interval of three seeds would be less than half as wide."""
    values = [61.5, 61.4, 60.2]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["mean"] == pytest.approx(61.0333, abs=1e-4)
    assert found["high"] - found["mean"] == pytest.approx(4.30265 * 0.41767, rel=1e-4)


def test_one_value_has_no_interval():
    """A single run says nothing about its spread."""
    assert mean_interval([5.0]) == {"mean": 5.0, "low": None, "high": None, "n": 1}


def test_pairing_removes_what_seeds_share():
    """Seeds differ by points, methods by tenths: unpaired, nothing could be told apart."""
    first = {0: 60.2, 1: 50.3, 2: 70.25}
    second = {0: 60.0, 1: 50.0, 2: 70.0, 3: 99.0}
    found = paired(first, second)
    assert found["n"] == 3
    assert found["mean"] == pytest.approx(0.25)
    assert verdict(found) == "better"
    with pytest.raises(ValueError, match="share no seed"):
        paired({0: 1.0}, {1: 1.0})


def test_verdicts():
    """An interval that touches both sides is a tie."""
    assert verdict({"low": -1.0, "high": 1.0}) == "tied"
    assert verdict({"low": -2.0, "high": -1.0}) == "worse"
    assert verdict({"low": None, "high": None}) == "unknown"


def test_standing():
    """One rival ahead outweighs any number of ties."""
    tied, worse, better = ({"verdict": name} for name in ("tied", "worse", "better"))
    assert standing({"st3": better, "str": better}) == "first"
    assert standing({"st3": tied, "str": better}) == "tied with st3"
    assert standing({"st3": worse, "str": tied}) == "behind st3"
    assert standing({}) == "alone"


def test_comparison_pairs_the_best_preset_with_all():
    """The best PDP preset is found by the rows, its gap and its failures are reported."""
    found = comparison(
        [
            *[row("pdp_default", seed, 60.0 + seed) for seed in range(3)],
            *[row("pdp_rectified", seed, 62.0 + seed, soft=62.3 + seed) for seed in range(3)],
            *[row("st3", seed, 61.0 + seed + 0.01 * seed) for seed in range(3)],
            row("str", 0, 0.0, status="diverged", reason="NaN"),
        ],
        "screen",
    )
    assert found["best_pdp"] == "pdp_rectified"
    assert found["best_pdp_minus"]["st3"]["mean"] == pytest.approx(0.99)
    assert found["standing"] == "first"
    assert [item["method"] for item in found["methods"]] == ["pdp_rectified", "st3", "pdp_default"]
    assert found["methods"][0]["soft_minus_hard"]["mean"] == pytest.approx(0.3)
    assert found["failed"] == [{"method": "str", "status": "diverged", "reason": "NaN"}]


def test_ablation_is_the_gain_over_the_same_options():
    """A change must be compared with its own base, seed by seed."""
    base, other = {"lr": 0.1, "ramp_end": 0.5}, {"lr": 0.2, "ramp_end": 0.5}
    rows = [row("pdp_rectified", seed, 60.0 + seed, options=base, split="tuning") for seed in range(3)]
    rows += [row("pdp_rectified", seed, 61.0 + 1.1 * seed, options=base | {"allocation": "erk"}) for seed in range(3)]
    rows += [row("pdp_rectified", seed, 90.0, options=other) for seed in range(3)]
    (found,) = ablations(rows)
    assert found["change"] == {"allocation": "erk"}
    assert found["mean"] == pytest.approx(1.1)
    assert found["n"] == 3


def test_summary_writes_three_files_and_forgets_old_revisions(tmp_path):
    """A row of an older implementation must not count for the present one."""
    results = tmp_path / "rows.jsonl"
    for seed in range(3):
        rows.append(results, row("pdp_default", seed, 60.0 + seed, revision=METHODS["pdp_default"].revision))
        rows.append(results, row("gradual", seed, 59.0 + seed, sparsity=0.5, revision=METHODS["gradual"].revision))
        rows.append(results, row("pdp_default", seed, 99.0, revision=0))
    summary = summarise(results, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "pruning_quality.json").read_text())
    assert stored["comparisons"][0]["methods"][0]["hard"]["mean"] == 61.0
    assert summary["comparisons"][0]["standing"] == "first"
    table = (tmp_path / "out" / "pruning_quality.md").read_text()
    assert "| **pdp_default** | 61.00 ± 2.48 |" in table
    assert "off target" in table
    assert (tmp_path / "out" / "pruning_quality.png").stat().st_size > 1000
