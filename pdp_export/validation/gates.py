"""Gates: the recipe's limits against what was measured, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pdp_export.errors import (
    AccuracyGateError,
    CheckNotRunError,
    CostGateError,
    InconclusiveError,
    ParityGateError,
)
from pdp_export.measurements import GateResult, Interval, TargetResult
from pdp_export.recipe import GatesSection
from pdp_export.results import Verdict
from pdp_export.validation.latency_statistics import distrust, judge_ratio

_SEVERITY = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.NOT_RUN)
_FAIL_CODES = {
    "atol": ParityGateError.exit_code,
    "max_accuracy_drop": AccuracyGateError.exit_code,
    "max_latency_ratio": CostGateError.exit_code,
    "min_size_ratio": CostGateError.exit_code,
}
_FAILED_CHECKS = {"size": CostGateError.exit_code}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return FAIL before INCONCLUSIVE before NOT_RUN before PASS; NOT_RUN when there is none at all."""
    found = set(verdicts)
    if not found:
        return Verdict.NOT_RUN
    return next((verdict for verdict in _SEVERITY if verdict in found), Verdict.PASS)


def settle(result: TargetResult, gates: GatesSection) -> TargetResult:
    """Return the target's result with its gates evaluated, and the verdict and reasons that follow.

    A target passes when its checks (weights, dtype, parity, size, nothing asked for left out) and its set gates pass.
    """
    evaluated = evaluate(result, gates)
    verdict = worst([check.verdict for check in result.checks] + [gate.verdict for gate in evaluated])
    open_points = [(check.name, check.reason) for check in result.checks if check.verdict is not Verdict.PASS]
    open_points += [(gate.gate, gate.reason) for gate in evaluated if gate.verdict is not Verdict.PASS]
    return result.model_copy(update={"gates": evaluated, "verdict": verdict, "reasons": _joined(open_points)})


def _joined(points: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Say every reason once, after the names of all checks and gates that it holds for."""
    names: dict[str, list[str]] = {}
    for name, reason in points:
        names.setdefault(reason, []).append(name)
    return tuple(f"{', '.join(dict.fromkeys(group))}: {reason}" for reason, group in names.items())


def evaluate(result: TargetResult, gates: GatesSection) -> tuple[GateResult, ...]:
    """Return one result for every gate that is set, against the measurements of one target."""
    found = []
    if gates.atol is not None:
        found.append(_parity(result, gates.atol))
    if gates.max_accuracy_drop is not None:
        found.append(_accuracy(result, gates.max_accuracy_drop))
    if gates.max_latency_ratio is not None:
        found.append(_latency(result, gates.max_latency_ratio))
    if gates.min_size_ratio is not None:
        found.append(_size(result, gates.min_size_ratio))
    return tuple(found)


def exit_code(targets: Sequence[TargetResult], *, require_all: bool = False) -> int:
    """Return the exit code of a run: 0 when no set gate failed, was undecided or ran nowhere.

    5 outputs, stored weights or their dtype differ · 6 accuracy gate · 7 latency or size gate, or a file whose zeros
    save no bytes · 9 a set gate is inconclusive · 10 a set gate could run
    on no target, or, with `require_all`, any check did not run. The first that applies wins. A failed check is no
    matter of gates: it needs none to be set.
    """
    gates = [gate for target in targets for gate in target.gates]
    failed = [_FAIL_CODES[gate.gate] for gate in gates if gate.verdict is Verdict.FAIL]
    checks = [check for target in targets for check in target.checks]
    failed += [
        _FAILED_CHECKS.get(check.name, ParityGateError.exit_code) for check in checks if check.verdict is Verdict.FAIL
    ]
    if failed:
        return min(failed)
    if any(gate.verdict is Verdict.INCONCLUSIVE for gate in gates):
        return InconclusiveError.exit_code
    ran = {gate.gate for gate in gates if gate.verdict is not Verdict.NOT_RUN}
    skipped = Verdict.NOT_RUN in {gate.verdict for gate in gates} | {check.verdict for check in checks}
    if any(gate.gate not in ran for gate in gates) or (require_all and skipped):
        return CheckNotRunError.exit_code
    return 0


def _parity(result: TargetResult, limit: float) -> GateResult:
    if not result.parity:
        return _not_run("atol", result, limit, "parity")
    bound = max(output.atol for output in result.parity)
    errors = [output.relative_to_range for output in result.parity if output.relative_to_range is not None]
    bad = [f"output {output.name}: {output.reason}" for output in result.parity if output.verdict is not Verdict.PASS]
    return GateResult(
        gate="atol",
        target=result.target,
        limit=bound,
        value=max(errors, default=None),
        verdict=Verdict.FAIL if bad else Verdict.PASS,
        reason="; ".join(bad),
    )


def _accuracy(result: TargetResult, limit: float) -> GateResult:
    measured = result.accuracy
    if measured is None or measured.drop_interval is None:
        return _not_run("max_accuracy_drop", result, limit, "accuracy")
    verdict, reason = _judge_drop(measured.drop_interval, limit)
    return GateResult(
        gate="max_accuracy_drop",
        target=result.target,
        limit=limit,
        value=measured.drop,
        interval=measured.drop_interval,
        verdict=verdict,
        reason=reason,
    )


def _judge_drop(interval: Interval, limit: float) -> tuple[Verdict, str]:
    text = f"95 % interval of the drop {interval.low:+.4f} to {interval.high:+.4f}, limit {limit:g}"
    if interval.high <= limit:
        return Verdict.PASS, text
    if interval.low > limit:
        return Verdict.FAIL, f"more accuracy lost than allowed: {text}"
    return Verdict.INCONCLUSIVE, f"the validation set is too small to tell: {text}"


def _latency(result: TargetResult, limit: float) -> GateResult:
    measured = result.latency
    if measured is None:
        return _not_run("max_latency_ratio", result, limit, "latency")
    doubts = distrust(measured.control_aa, measured.environment, measured.protocol.blocks, measured.execution)
    if worst(output.verdict for output in result.parity) is not Verdict.PASS:
        doubts = (*doubts, "the outputs were not shown to be right on this device")
    verdict, reason = judge_ratio(measured.comparison.interval, limit, doubts)
    return GateResult(
        gate="max_latency_ratio",
        target=result.target,
        limit=limit,
        value=measured.comparison.ratio,
        interval=measured.comparison.interval,
        verdict=verdict,
        reason=reason,
    )


def _size(result: TargetResult, limit: float) -> GateResult:
    if result.size is None or result.size.ratio is None:
        return _not_run("min_size_ratio", result, limit, "size")
    ratio = result.size.ratio
    passed = ratio >= limit
    return GateResult(
        gate="min_size_ratio",
        target=result.target,
        limit=limit,
        value=ratio,
        verdict=Verdict.PASS if passed else Verdict.FAIL,
        reason="" if passed else f"the file is {ratio:.3g} times smaller, {limit:g} was asked for",
    )


def _not_run(gate: str, result: TargetResult, limit: float, check: str) -> GateResult:
    reasons = [item.reason for item in result.checks if item.name == check and item.reason]
    reason = reasons[0] if reasons else f"{check} was not measured"
    return GateResult.model_validate(
        {"gate": gate, "target": result.target, "limit": limit, "verdict": Verdict.NOT_RUN, "reason": reason}
    )
