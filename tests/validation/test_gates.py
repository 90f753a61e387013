"""Gates and exit codes: what is not proven is never a pass."""

import pytest

from pdp_export.measurements import (
    AccuracyResult,
    Interval,
    LatencyArm,
    LatencyComparison,
    LatencyEnvironment,
    LatencyProtocol,
    LatencyResult,
    OutputParity,
    SizeResult,
    TargetResult,
)
from pdp_export.recipe import GatesSection
from pdp_export.results import Check, Verdict
from pdp_export.validation.gates import evaluate, exit_code, settle, worst

ALL_GATES = GatesSection(max_accuracy_drop=0.01, atol=1e-4, max_latency_ratio=0.8, min_size_ratio=3)
PARITY = OutputParity(name="y", elements=10, atol=1e-4, verdict=Verdict.PASS, max_abs=1e-6, relative_to_range=1e-6)


def _accuracy(low, high):
    return AccuracyResult(
        n=100, dense_value=0.9, pruned_value=0.9, drop=(low + high) / 2, drop_interval=Interval(low=low, high=high)
    )


def _latency(low, high, drift=0.0):
    arm = LatencyArm(samples_ms=((1.0,),), p50_ms=1, p90_ms=1, mean_ms=1, std_ms=0, first_ms=1, load_ms=1)
    return LatencyResult(
        runtime="fake", runtime_version="1", batch=1, protocol=LatencyProtocol(), dense=arm, pruned=arm,
        comparison=LatencyComparison(ratio=(low + high) / 2, interval=Interval(low=low, high=high)),
        control_aa=LatencyComparison(ratio=1, interval=Interval(low=0.98, high=1.02)),
        environment=LatencyEnvironment(drift=drift, throttled=drift > 0.05), verdict=Verdict.PASS,
    )  # fmt: skip


def _result(**change):
    values = {
        "target": "onnx",
        "file": "artifacts/model.onnx",
        "verdict": Verdict.PASS,
        "checks": (Check(name="weights", verdict=Verdict.PASS), Check(name="parity", verdict=Verdict.PASS)),
        "parity": (PARITY,),
        "accuracy": _accuracy(-0.002, 0.004),
        "size": SizeResult(pruned_bytes=10, pruned_gzip_bytes=9, dense_bytes=40, dense_gzip_bytes=36, ratio=4),
        "latency": _latency(0.5, 0.6),
    }
    return TargetResult.model_validate({**values, **change})


NOT_RUN = _result(
    checks=(Check(name="parity", verdict=Verdict.NOT_RUN, reason="needs macOS"),),
    parity=(), accuracy=None, latency=None, size=None,
)  # fmt: skip


def test_only_set_gates_count():
    """A recipe without gates reports and exits 0 however large the loss."""
    settled = settle(_result(accuracy=_accuracy(0.5, 0.6), latency=_latency(2, 3)), GatesSection())
    assert settled.gates == ()
    assert exit_code([settled]) == 0


@pytest.mark.parametrize(
    ("change", "gate", "verdict", "code"),
    [
        ({}, "max_accuracy_drop", Verdict.PASS, 0),
        ({"accuracy": _accuracy(0.02, 0.04)}, "max_accuracy_drop", Verdict.FAIL, 6),
        ({"accuracy": _accuracy(0.00, 0.02)}, "max_accuracy_drop", Verdict.INCONCLUSIVE, 9),
        ({"latency": _latency(0.81, 0.9)}, "max_latency_ratio", Verdict.FAIL, 7),
        ({"latency": _latency(0.7, 0.9)}, "max_latency_ratio", Verdict.INCONCLUSIVE, 9),
        ({"latency": _latency(0.5, 0.6, drift=0.2)}, "max_latency_ratio", Verdict.INCONCLUSIVE, 9),
        ({"latency": None}, "max_latency_ratio", Verdict.NOT_RUN, 10),
        ({"size": SizeResult(pruned_bytes=10, pruned_gzip_bytes=9, ratio=2.9)}, "min_size_ratio", Verdict.FAIL, 7),
        ({"size": SizeResult(pruned_bytes=10, pruned_gzip_bytes=9)}, "min_size_ratio", Verdict.NOT_RUN, 10),
        ({"parity": (PARITY.model_copy(update={"verdict": Verdict.FAIL}),)}, "atol", Verdict.FAIL, 5),
    ],
)
def test_each_gate_and_its_exit_code(change, gate, verdict, code):
    """Each outcome of each gate has its own exit code, and only a proven one is 0."""
    settled = settle(_result(**change), ALL_GATES)
    found = {item.gate: item for item in settled.gates}
    assert found[gate].verdict is verdict
    assert exit_code([settled]) == code
    assert (settled.verdict is Verdict.PASS) == (code == 0)
    assert bool(settled.reasons) == (code != 0)


def test_latency_never_passes_without_right_outputs():
    """A file that answers quickly and wrongly is not fast."""
    wrong = _result(parity=(PARITY.model_copy(update={"verdict": Verdict.FAIL}),))
    gate = {item.gate: item for item in evaluate(wrong, ALL_GATES)}["max_latency_ratio"]
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert "outputs" in gate.reason


def test_not_run_is_never_a_pass():
    """A skipped check leaves the target NOT_RUN with the reason; it costs the exit code only when required."""
    gates = GatesSection(max_accuracy_drop=0.01)
    settled = settle(NOT_RUN, gates)
    assert settled.verdict is Verdict.NOT_RUN
    assert settled.gates[0].reason == "accuracy was not measured"
    assert settled.reasons == ("parity: needs macOS", "max_accuracy_drop: accuracy was not measured")
    other = settle(_result(), gates)
    assert exit_code([settled, other]) == 0
    assert exit_code([settled, other], require_all=True) == 10
    assert exit_code([settled]) == 10


def test_differing_weights_need_no_gate():
    """A file that does not hold the model's weights is broken whatever the recipe says."""
    broken = _result(checks=(Check(name="weights", verdict=Verdict.FAIL, reason="2 elements differ"),))
    assert exit_code([settle(broken, GatesSection())]) == 5


@pytest.mark.parametrize(("name", "code"), [("dtype", 5), ("parity", 5), ("accuracy", 5), ("size", 7)])
def test_every_failed_check_has_its_code(name, code):
    """A file that saves nothing costs too much, any other failed check means a broken file; no gate is needed."""
    failed = settle(_result(checks=(Check(name=name, verdict=Verdict.FAIL, reason="so"),)), GatesSection())
    assert failed.verdict is Verdict.FAIL
    assert exit_code([failed]) == code


def test_failures_win_over_open_questions():
    """FAIL before INCONCLUSIVE before NOT_RUN, in the verdict and in the exit code."""
    settled = settle(_result(accuracy=_accuracy(0.02, 0.04), latency=_latency(0.7, 0.9), size=None), ALL_GATES)
    assert settled.verdict is Verdict.FAIL
    assert exit_code([settled, NOT_RUN], require_all=True) == 6
    assert worst([]) is Verdict.NOT_RUN
    assert worst([Verdict.PASS, Verdict.NOT_RUN, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
