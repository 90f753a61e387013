"""All checks of one written file: re-open it from the disk and compare it with the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.errors import ChildCrashedError, MissingDependencyError, NotRunnableError
from pdp_export.measurements import AccuracyResult, LatencyResult, OutputParity, TargetResult
from pdp_export.results import Check, Verdict
from pdp_export.runtimes import registry
from pdp_export.targets import Target
from pdp_export.validation import isolated
from pdp_export.validation.gates import worst
from pdp_export.validation.parity import compare_outputs
from pdp_export.validation.size import compare_sizes
from pdp_export.validation.stored_form import check_dtype, check_size, paying_weights

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Evidence:
    """What a file is compared with. Arrays are in the model's layout (NCHW), batch first.

    Attributes:
        weights: name -> float32 weights of rank >= 2 of the program that was converted.
        inputs: A few real samples, by input name, for parity.
        reference: Outputs of the PyTorch program for `inputs`, by output name, in the model's order.
        validation_chunks: Gives the validation set in chunks, by input name; None: accuracy is not asked for.
        judge: From the file's outputs on the validation set to its accuracy against the dense model.
    """

    weights: Mapping[str, Array]
    inputs: Mapping[str, Array]
    reference: Outputs
    validation_chunks: Callable[[], Iterable[Mapping[str, Array]]] | None = None
    judge: Callable[[Outputs], AccuracyResult] | None = None


@dataclass(frozen=True)
class WrittenFile:
    """One artifact. `folder` is the run directory, the other paths are relative to it.

    `atol` is the parity tolerance of this target and precision, relative to max|y|. `declared` says what the target's
    encodings cost; without it no weight has to be stored sparsely.
    """

    target: str
    title: str
    precision: str
    encoding: str
    folder: Path
    file: str
    dense_file: str | None
    atol: float
    declared: Target | None = None


def check_file(written: WrittenFile, evidence: Evidence, *, threads: int = 1, log: Path | None = None) -> TargetResult:
    """Check weights, dtype, outputs, accuracy and size of one file; latency and gates come later.

    Where this machine cannot execute the format, parity and accuracy are NOT_RUN with the reason; a runtime that
    dies of the file is a FAIL.
    Call `gates.settle` for the final verdict.

    Raises:
        FileError: when the file is damaged.
    """
    path = written.folder / written.file
    facts = isolated.describe(written.target, path, log=log)
    weights = isolated.check_weights(written.target, path, evidence.weights, log=log)
    parity, outputs = _parity(written, evidence, threads, log)
    accuracy, problem = _accuracy(written, evidence, threads, log, outputs)
    size = compare_sizes(path, written.folder / written.dense_file if written.dense_file else None, facts)
    checks = (
        Check(name="weights", verdict=weights.verdict, reason=weights.reason),
        check_dtype(facts, written.precision, written.encoding),
        outputs,
        *([problem] if problem else []),
        check_size(size, facts, written.encoding, _paying(written, evidence)),
    )
    return TargetResult(
        target=written.target,
        title=written.title,
        precision=written.precision,
        encoding=written.encoding,
        file=written.file,
        dense_file=written.dense_file,
        verdict=worst(item.verdict for item in checks),
        checks=checks,
        facts=facts,
        weights=weights,
        parity=parity,
        accuracy=accuracy,
        size=size,
        remarks=_remarks(written, log),
    )


def _remarks(written: WrittenFile, log: Path | None) -> tuple[str, ...]:
    try:
        return isolated.remarks(written.target, written.folder / written.file, log=log)
    except (ChildCrashedError, MissingDependencyError) as error:
        return (f"not asked: {error.what}",)


def _paying(written: WrittenFile, evidence: Evidence) -> list[str]:
    if written.declared is None:
        return []
    return paying_weights(evidence.weights, written.precision, written.encoding, written.declared)


def with_latency(result: TargetResult, latency: LatencyResult | None, reason: str = "") -> TargetResult:
    """Return the result with a latency measurement, or with the reason why there is none.

    Without both, latency was not asked for, and nothing is added.
    """
    others = tuple(check for check in result.checks if check.name != "latency")
    if latency is None and reason:
        others = (*others, Check(name="latency", verdict=Verdict.NOT_RUN, reason=reason))
    return result.model_copy(update={"latency": latency, "checks": others})


def _parity(
    written: WrittenFile, evidence: Evidence, threads: int, log: Path | None
) -> tuple[tuple[OutputParity, ...], Check]:
    try:
        got = _outputs(written, evidence.inputs, evidence, threads, log)
    except (NotRunnableError, MissingDependencyError) as error:
        return (), Check(name="parity", verdict=Verdict.NOT_RUN, reason=error.what)
    except ChildCrashedError as error:
        return (), Check(name="parity", verdict=Verdict.FAIL, reason=error.what)
    parity = compare_outputs(evidence.reference, got, written.atol)
    errors = [output.relative_to_range for output in parity if output.relative_to_range is not None]
    problems = [f"output {item.name}: {item.reason}" for item in parity if item.reason]
    return parity, Check(
        name="parity",
        verdict=worst(output.verdict for output in parity),
        value=max(errors, default=None),
        limit=written.atol,
        reason="; ".join(problems) or f"run by {registry.load(written.target).execution().by}",
    )


def _accuracy(
    written: WrittenFile, evidence: Evidence, threads: int, log: Path | None, parity: Check
) -> tuple[AccuracyResult | None, Check | None]:
    if evidence.judge is None or evidence.validation_chunks is None:
        return None, None
    if parity.value is None:
        return None, Check(name="accuracy", verdict=Verdict.NOT_RUN, reason=parity.reason)
    try:
        parts = [_outputs(written, chunk, evidence, threads, log) for chunk in evidence.validation_chunks()]
    except ChildCrashedError as error:
        return None, Check(name="accuracy", verdict=Verdict.FAIL, reason=error.what)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in evidence.reference}
    return evidence.judge(whole), None


def _outputs(
    written: WrittenFile, inputs: Mapping[str, Array], evidence: Evidence, threads: int, log: Path | None
) -> dict[str, Array]:
    path = written.folder / written.file
    return isolated.outputs(written.target, path, inputs, list(evidence.reference), threads=threads, log=log)
