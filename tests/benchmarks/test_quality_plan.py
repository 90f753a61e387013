"""Planning, resuming and the results file of the quality benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.pruning_quality import rows
from benchmarks.pruning_quality.choices import best_options, ranking
from benchmarks.pruning_quality.experiment import Places
from benchmarks.pruning_quality.methods.registry import LEARNING_RATES, METHODS
from benchmarks.pruning_quality.plan import FINAL_SEEDS, MORE, RIVALS, SCREEN_SEEDS, TUNE_SEEDS, missing, plan
from benchmarks.pruning_quality.runner import Limits, RunsFailedError, estimate, run_missing
from benchmarks.pruning_quality.tasks import TASKS

NOWHERE = Places(Path("none"), Path("none"), Path("none"))


def fake(run, places=NOWHERE):
    """Return a plausible row without training; PDP's rectified preset does best, then st3, then feather."""
    del places
    merit = {"pdp_rectified": 5.0, "st3": 4.0, "feather": 3.0}.get(run.method, 1.0)
    return {
        "key": run.key,
        **run.describe(),
        "status": "ok",
        "soft": 60 + merit,
        "hard": 60 + merit + run.options["lr"] + 0.01 * run.seed,
        "sparsity": run.sparsity,
        "macs_kept": 0.1,
        "seconds": 1.0,
        "cpu_seconds": 36.0,
        "versions": {},
        "hardware": {},
    }


def broken(run, places=NOWHERE):
    """Fail like a bug for one method."""
    if run.method == "one_shot":
        raise RuntimeError("bug")
    return fake(run, places)


def complete():
    """Plan and pretend until nothing is missing."""
    done = {}
    while todo := missing(done)[0]:
        done |= {run.key: fake(run) for run in todo}
    return done


def test_keys_are_unique_and_the_plan_ends():
    """Two runs with one key would be one row; a plan that never ends cannot be estimated."""
    done = complete()
    runs, waiting = plan(done)
    assert not waiting
    assert len({run.key for run in runs}) == len(runs) == len(done)
    assert 300 < sum(run.stage != "ablate" for run in runs) < 500


def test_every_method_is_tuned_on_an_equal_grid():
    """More tries for one method would flatter it."""
    assert {len(entry.grid()) for name, entry in METHODS.items() if name != "dense"} == {2 * len(LEARNING_RATES)}


def test_test_set_is_kept_from_tuning():
    """Hyper-parameters chosen on the test set or on the final seeds would be overfitted."""
    runs, _ = plan(complete())
    assert {run.split for run in runs if run.stage in ("tune", "ablate")} == {"tuning"}
    assert {run.split for run in runs if run.stage in ("screen", "final")} == {"test"}
    assert not {*TUNE_SEEDS} & {*SCREEN_SEEDS, *FINAL_SEEDS}
    assert {run.options["lr"] for run in runs if run.stage == "screen"} == {max(LEARNING_RATES)}


def test_final_takes_the_best_preset_and_its_strongest_rivals():
    """The final seeds are for three methods per cell, chosen by the screening."""
    runs, _ = plan(complete())
    final = [run for run in runs if run.pattern == "unstructured" and run.split == "test" and run.seed == 9]
    assert {run.method for run in final} == {"pdp_rectified", "st3", "feather"}
    assert len(final) == 3 * 2 * len(TASKS)
    assert len(FINAL_SEEDS) == 10


def test_other_patterns_get_the_specialists():
    """SR-STE and Torch-Pruning know one pattern only; two PDP presets and two rivals are always there."""
    runs, _ = plan(complete())
    for pattern, sparsity in MORE:
        methods = {
            run.method for run in runs if run.stage == "screen" and (run.pattern, run.sparsity) == (pattern, sparsity)
        }
        assert {"pdp_rectified", "pdp_default", "st3", "feather"} == methods - {"sr_ste", "torch_pruning_bn"}
        assert ("sr_ste" in methods) == (pattern == "1:4")
        assert ("torch_pruning_bn" in methods) == (pattern == "channel")
    assert RIVALS == 2


def test_screening_waits_for_its_tuning():
    """A screening with arbitrary hyper-parameters would be unfair."""
    runs, waiting = plan({})
    assert {run.stage for run in runs} == {"tune"}
    assert any("waits for its tuning" in text for text in waiting)


def test_resume_skips_what_is_done(tmp_path):
    """A benchmark of hours that starts anew after every stop would never end."""
    results = tmp_path / "rows.jsonl"
    limits = Limits(stage="tune", only="cifar.*(dense|one_shot)")
    first = run_missing(results, NOWHERE, limits, fake)
    assert first == len(LEARNING_RATES) * (1 + 2)
    assert len(rows.read(results)) == first
    assert run_missing(results, NOWHERE, limits, fake) == 0
    assert len(rows.read(results)) == first


def test_a_bug_in_one_method_does_not_stop_the_others(tmp_path):
    """An overnight run must not end at the first error, nor hide it."""
    results = tmp_path / "rows.jsonl"
    with pytest.raises(RunsFailedError, match="one_shot"):
        run_missing(results, NOWHERE, Limits(stage="tune", only="cifar.*(dense|one_shot)"), broken)
    assert {row["method"] for row in rows.read(results)} == {"dense"}


def test_ablations_run_only_by_name():
    """Changes of the methods are not part of the comparison, and would double its length."""
    ablation = next(run for run in plan(complete())[0] if run.stage == "ablate")
    assert not Limits().wants(ablation)
    assert Limits(stage="ablate").wants(ablation)


def test_no_time_no_runs(tmp_path):
    """--max-minutes 0 must start nothing."""
    assert run_missing(tmp_path / "rows.jsonl", NOWHERE, Limits(max_minutes=0.0), fake) == 0


def test_torn_line_is_forgotten(tmp_path):
    """A kill in the middle of a write must cost one run, not the file."""
    path = tmp_path / "rows.jsonl"
    rows.append(path, {"key": "a", "status": "ok", "method": "dense"})
    with path.open("a") as file:
        file.write('{"key": "b", "sta')
    rows.append(path, {"key": "c", "status": "ok", "method": "dense"})
    assert [row["key"] for row in rows.read(path)] == ["a", "c"]
    assert json.loads(path.read_text().splitlines()[-1])["key"] == "c"


def test_missing_tool_is_retried_once_it_is_there(monkeypatch):
    """A row "not installed" must not outlive the installation."""
    row = {"key": "a", "status": "not installed", "method": "coremltools_magnitude"}
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert rows.by_key([row]) == {"a": row}
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert rows.by_key([row]) == {}


def test_options_that_miss_the_sparsity_lose():
    """A threshold method that prunes less wins on accuracy; that is no reason to choose it."""
    base = {"status": "ok", "pattern": "unstructured", "asked": 0.9}
    low = base | {"options": {"lr": 0.1}, "sparsity": 0.8, "hard": 70.0}
    met = base | {"options": {"lr": 0.2}, "sparsity": 0.899, "hard": 60.0}
    assert best_options([low, met]) == {"lr": 0.2}


def test_ranking_leaves_out_methods_with_failed_seeds():
    """The mean over the seeds that happened to converge is not the method's mean."""
    good = [{"method": "a", "status": "ok", "hard": 50.0}] * 2
    bad = [{"method": "b", "status": "ok", "hard": 90.0}, {"method": "b", "status": "diverged"}]
    assert ranking([*good, *bad]) == ["a"]


def test_estimate_uses_measured_times():
    """36 s per run and task-wide medians for methods without rows."""
    runs, _ = plan({})
    done = {run.key: fake(run) for run in runs[:3]}
    assert estimate([run for run in runs if run.task == runs[0].task][:40], done) == pytest.approx(0.4)
