"""The public functions: the whole pipeline, and its last stages for a program that exists already."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.converters import registry
from pdp_export.errors import UsageError
from pdp_export.measurements import OutputParity, WeightCheck
from pdp_export.pipeline import crew, manifest, run_directory
from pdp_export.pipeline.context import Context
from pdp_export.pipeline.manifest import Manifest
from pdp_export.pipeline.observer import Observer, Silent
from pdp_export.pipeline.plan import Plan, plan
from pdp_export.pipeline.runner import Selection, run_stages
from pdp_export.recipe import Recipe
from pdp_export.report import run_report
from pdp_export.results import FileFacts, TensorSpec, Verdict
from pdp_export.targets import ConvertRequest, Target
from pdp_export.validation import gates, isolated
from pdp_export.validation.parity import compare_outputs
from pdp_export.validation.stored_form import AGAIN, DTYPES

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from pdp_export.report.run_report import RunReport

__all__ = [
    "Artifact",
    "FileVerdict",
    "Plan",
    "convert",
    "exit_code",
    "followed",
    "plan",
    "prune_and_convert",
    "run_until",
    "validate",
]


@dataclass(frozen=True)
class Artifact:
    """A written model file, with what was read back from it."""

    path: Path
    target: str
    precision: str
    facts: FileFacts
    encoding: str = "auto"


@dataclass(frozen=True)
class FileVerdict:
    """What `validate` found. `parity` is empty, and the verdict NOT_RUN, where the file cannot be executed here.

    `expanded`: the file was written with sparse weights that are dense now; the verdict is FAIL, though it computes the
    same.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    parity: tuple[OutputParity, ...]
    weights: WeightCheck | None
    expanded: bool = False


def prune_and_convert(
    recipe: Recipe | str | Path,
    output: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    selection: Selection | None = None,
    observer: Observer | None = None,
    command: str = "pdp_export.prune_and_convert",
) -> RunReport | None:
    """Run the whole pipeline and return the run's report; None when `selection` stops before it.

    Under torchrun call it in every process: all train, the first one does the rest, the others return None.

    Args:
        recipe: A recipe, or the path of one.
        output: The run directory.
        resume: Go on in a run directory; finished stages with unchanged inputs are skipped.
        force: Start over in a run directory.
        selection: Stages to run; all by default.
        observer: Receives progress; silent by default.
        command: The command line for the manifest and the report.

    Raises:
        PdpExportError: of whatever stage refuses or fails.
    """
    if followed(recipe):
        return None
    run_until(recipe, output, resume=resume, force=force, selection=selection, observer=observer, command=command)
    report = Path(output) / run_report.FILE_NAME
    chosen = selection or Selection()
    return run_report.read(Path(output)) if report.exists() and chosen.stages()[-1].name == "report" else None


def run_until(
    recipe: Recipe | str | Path,
    output: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    selection: Selection | None = None,
    observer: Observer | None = None,
    command: str = "pdp_export.run_until",
) -> Manifest:
    """Run the selected stages and return the manifest. Arguments as for `prune_and_convert`."""
    parsed = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    chosen = selection or Selection()
    going_on = resume or chosen.only is not None or chosen.from_stage is not None
    folder = Path(output)
    _refuse_contradictions(chosen, parsed, folder, force=force, going_on=going_on)
    with run_directory.opened(folder, parsed, resume=going_on, force=force) as run:
        context = Context(parsed, run, observer or Silent())
        with crew.leading(context):
            return run_stages(context, chosen, command)


def followed(recipe: Recipe | str | Path) -> bool:
    """Whether this is another process than torchrun's first; returns when the first has dismissed it."""
    if not crew.is_follower():
        return False
    crew.follow(recipe if isinstance(recipe, Recipe) else Recipe.load(recipe))
    return True


def _refuse_contradictions(chosen: Selection, recipe: Recipe, folder: Path, *, force: bool, going_on: bool) -> None:
    """Refuse what cannot work before anything is written or deleted."""
    stages = chosen.stages()
    if force and going_on:
        raise UsageError(
            "--force starts over, which does not go together with --resume, --only or --from-stage",
            where="--force",
            hint="leave --force out to go on, or the others to start over",
        )
    if chosen.only is not None and stages[0].needs:
        run_directory.refuse_strangers(folder, recipe)
        manifest.read(folder)


def exit_code(report: RunReport, *, require_all: bool = False) -> int:
    """Return the command line's exit code for a report: 0 when no set gate failed."""
    return gates.exit_code(report.targets, require_all=require_all)


def convert(
    program: ExportedProgram,
    path: str | Path,
    *,
    target: str,
    encoding: str = "auto",
    precision: str | None = None,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    calibration: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Artifact:
    """Write a captured program as one file; it appears whole or not at all.

    Args:
        program: For example `remove_channels(...).program`; float32, BatchNorm folded.
        path: The file to write.
        target: onnx, coreml, litert or mnn.
        encoding: "auto", "dense", or one of the target's own.
        precision: One of the target's precisions; its first one by default.
        input_names: Names of the inputs, in order; the program's own by default.
        output_names: Names of the outputs, in order; the program's own by default.
        metadata: Text that is written into the file.
        options: The target's own options.
        calibration: Real samples by input name, batch first; precision int8 needs them.

    Raises:
        UsageError: for an unknown target, precision, encoding or option, or a module in the place of a program.
        MissingDependencyError: when a package of the target is not installed.
        ConversionError: when the target cannot express the program.
    """
    from torch.export import ExportedProgram

    from pdp_export.graph.archive import save_program
    from pdp_export.pipeline.calibration import save
    from pdp_export.pipeline.conversion import Job, convert_files
    from pdp_export.pipeline.program_io import input_specs, output_names_of

    if not isinstance(program, ExportedProgram):
        raise UsageError(
            f"expected a captured program, got {type(program).__name__}",
            where="program",
            hint="capture a module first: pdp_export.remove_channels(model, inputs).program",
        )
    declared = registry.load(target).TARGET
    declared.require()
    request = ConvertRequest(
        inputs=input_specs(program, input_names), outputs=tuple(output_names) or output_names_of(program),
        precision=precision or declared.precisions[0], encoding=encoding,
        metadata=dict(metadata or {}), options=dict(options or {}),
    )  # fmt: skip
    request.check(declared)
    final = Path(path)
    if final.suffix != declared.suffix:
        raise UsageError(
            f"a {target} file ends in {declared.suffix}, not {final.suffix or 'nothing'}", where=final.name
        )
    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        saved = Path(folder) / "model.pt2"
        save_program(program, saved)
        if calibration:
            samples = str(save(calibration, Path(folder)))
            request = request.model_copy(update={"calibration": samples})
        convert_files(target, [Job(saved, final, request)])
    return Artifact(final, target, request.precision, isolated.describe(target, final), encoding)


def validate(
    artifact: Artifact | str | Path,
    *,
    reference: nn.Module | ExportedProgram,
    inputs: Any,
    atol: float | None = None,
) -> FileVerdict:
    """Open a file again from the disk and compare outputs, and weights where the reference is a program.

    Args:
        artifact: What `convert` returned, or the path of any file of a known format.
        reference: The PyTorch model (outputs are compared) or program (weights as well).
        inputs: A tensor, or a tuple of tensors in the model's order, batch first, in the model's layout.
        atol: Largest |difference| / max|y|; the target's own tolerance by default.
    """
    from pdp_export.pipeline.program_io import as_reference

    path = artifact.path if isinstance(artifact, Artifact) else Path(artifact)
    from pdp_export.runtimes.registry import name_for

    target = name_for(path)
    declared = registry.load(target).TARGET
    facts = isolated.describe(target, path)
    tolerance = atol if atol is not None else _tolerance(declared, artifact, facts)
    weights, expected = as_reference(reference, inputs, [spec.name for spec in facts.outputs])
    checked = isolated.check_weights(target, path, weights) if weights else None
    found = _verdict(target, path, facts.inputs, inputs, expected, tolerance, checked)
    if not facts.expanded:
        return found
    return replace(found, verdict=Verdict.FAIL, reasons=(*found.reasons, AGAIN), expanded=True)


def _precision(facts: FileFacts, known: Sequence[str]) -> str:
    """Return the precision of a file: the narrowest that its weights are stored in."""
    stored = {tensor.stored_dtype for tensor in facts.tensors if len(tensor.shape) > 1}
    narrow = [name for name in ("int8", "fp16") if DTYPES[name] in stored and name in known]
    return narrow[0] if narrow else known[0]


def _tolerance(declared: Target, artifact: Artifact | str | Path, facts: FileFacts) -> float:
    """Return the default tolerance: of what was asked for, or of the least exact encoding that the file holds."""
    if isinstance(artifact, Artifact):
        return declared.tolerance(artifact.precision, artifact.encoding)
    precision = _precision(facts, declared.precisions)
    return max(declared.tolerance(precision, encoding) for encoding in ("auto", *facts.encodings))


def _verdict(
    target: str,
    path: Path,
    specs: Sequence[TensorSpec],
    inputs: Any,
    expected: Mapping[str, np.ndarray[Any, Any]],
    atol: float,
    weights: WeightCheck | None,
) -> FileVerdict:
    from pdp_export.errors import NotRunnableError
    from pdp_export.pipeline.program_io import as_tuple

    tensors = as_tuple(inputs)
    if len(tensors) != len(specs):
        raise UsageError(f"{len(tensors)} inputs given, the file takes {len(specs)}", where="inputs")
    named = {spec.name: tensor.numpy() for spec, tensor in zip(specs, tensors, strict=True)}
    try:
        got = isolated.outputs(target, path, named, list(expected))
    except NotRunnableError as error:
        found = weights.verdict if weights and weights.verdict is Verdict.FAIL else Verdict.NOT_RUN
        return FileVerdict(found, (f"parity: {error.what}",), (), weights)
    parity = tuple(compare_outputs(expected, got, atol))
    verdicts = [item.verdict for item in parity] + ([weights.verdict] if weights else [])
    reasons = tuple(item.reason for item in parity if item.reason) + (
        (weights.reason,) if weights and weights.reason else ()
    )
    return FileVerdict(gates.worst(verdicts), reasons, parity, weights)
