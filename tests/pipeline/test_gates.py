"""Gates decide the exit code, each its own; what did not run is never a pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdp_export.measurements import Interval, LatencyComparison, LatencyResult
from tests.pipeline.conftest import CommandLine, write_recipe


def _again(copied: Path, cli: CommandLine, *flags: str, before: tuple[Any, ...] = ()) -> tuple[int, dict[str, Any]]:
    """Go on in a finished run with other gates; return the exit code and the report."""
    arguments = ("prune-and-convert", "--recipe", copied / "recipe.yaml", "-o", copied / "out", "--resume", "--json")
    done = cli(*arguments, *flags, before=before)
    assert done.out, done.err
    return done.code, json.loads(done.out)


@pytest.mark.parametrize(
    ("flags", "code", "verdict"),
    [
        (("--min-size-ratio", "1000"), 7, "FAIL"),
        (("--min-size-ratio", "1.01", "--atol", "0.1", "--max-accuracy-drop", "0.999"), 0, "PASS"),
        (("--atol", "1e-12"), 5, "FAIL"),
        # 64 samples cannot show that nothing at all was lost.
        (("--max-accuracy-drop", "0"), 9, "INCONCLUSIVE"),
    ],
)
def test_each_gate_has_its_exit_code(copied: Path, cli: CommandLine, flags: tuple[str, ...], code: int, verdict: str):
    """Pins a broken model that leaves CI green, and a good one that leaves it red."""
    found, report = _again(copied, cli, *flags)
    assert (found, report["verdict"]) == (code, verdict)
    assert len(report["gates"]) == len(flags) // 2
    assert all(gate["verdict"] == verdict for gate in report["gates"])


@pytest.mark.parametrize(("limit", "code", "verdict"), [("1e-6", 7, "FAIL"), ("1e6", 0, "PASS")])
def test_the_latency_gate(copied: Path, cli: CommandLine, limit: str, code: int, verdict: str):
    """Pins a latency gate that never fails, or never passes; the measurement is made calm, as this machine is not."""
    found, report = _again(copied, cli, "--max-latency-ratio", limit, "--warmup", "2", before=(_on_a_calm_machine,))
    assert (found, report["gates"][0]["verdict"]) == (code, verdict)


def _on_a_calm_machine() -> None:
    from pdp_export.validation import gates, isolated

    real = isolated.bench

    def bench(*arguments: Any, **options: Any) -> LatencyResult:
        measured = real(*arguments, **options)
        calm = LatencyComparison(ratio=1.0, interval=Interval(low=0.99, high=1.01))
        return measured.model_copy(update={"control_aa": calm, "comparison": calm})

    isolated.bench = bench
    gates.distrust = lambda *_: ()


def test_the_accuracy_gate(copied: Path, cli: CommandLine):
    """Pins a right file of a wrong model that passes: here it says the next class to every sample."""
    flags = ("--from-stage", "validate", "--max-accuracy-drop")
    code, report = _again(copied, cli, *flags, "0.01", before=(_wrong_by_one_class,))
    assert (code, report["targets"][0]["parity"][0]["verdict"]) == (6, "PASS")
    assert _again(copied, cli, *flags, "0.5")[0] == 0


def _wrong_by_one_class() -> None:
    from pdp_export.pipeline import validation_data

    real = validation_data.compare_predictions
    validation_data.compare_predictions = lambda truth, _dense, _pruned, labels: real(
        truth, truth, (truth + 1) % 4, labels
    )


@pytest.mark.slow
def test_a_ruined_model(tmp_path: Path, copied: Path, cli: CommandLine):
    """Pins the same for a model that really is ruined; starts from given weights."""
    weights = copied / "out/stages/02-train-dense/model.safetensors"
    ruin = "def ruin(output, target):\n    return nn.functional.cross_entropy(output, (target + 1) % CLASSES)\n"
    write_recipe(tmp_path / "work", {"task.loss": "tiny_task.py:ruin"}, task=ruin)
    arguments = ("prune-and-convert", "--recipe", "work/recipe.yaml", "-o", "run", "--weights", weights)
    done = cli(*arguments, "--max-accuracy-drop", "0.01", "--json")
    assert done.code == 6, done.err
    report = json.loads(done.out)
    assert report["dense_reference"]["source"] == "given weights (model.safetensors)"
    assert report["targets"][0]["parity"][0]["verdict"] == "PASS"
    assert report["targets"][0]["accuracy"]["drop"] > 0.1


def test_a_check_that_did_not_run_is_never_a_pass(copied: Path, cli: CommandLine):
    """Pins a green table for a format that cannot be executed on this machine."""
    flags = ("--from-stage", "validate")
    code, report = _again(copied, cli, *flags, "--require-all-checks", before=(_not_runnable,))
    assert (code, report["verdict"]) == (10, "NOT_RUN")
    assert any("needs another machine" in reason for reason in report["reasons"])
    assert _again(copied, cli, *flags, before=(_not_runnable,))[0] == 0
    assert _again(copied, cli, *flags, "--atol", "0.1", before=(_not_runnable,))[0] == 10


def _not_runnable() -> None:
    from pdp_export.errors import NotRunnableError
    from pdp_export.validation import isolated

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise NotRunnableError("it needs another machine")

    isolated.outputs = refuse
    isolated.bench = refuse
