"""Stage 7: every file is opened again from the disk and compared with the PyTorch program."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pdp_export.converters import registry
from pdp_export.graph.archive import load_program
from pdp_export.measurements import TargetResult
from pdp_export.pipeline import convert
from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.outputs import PRUNED_PROGRAM, WEIGHTS
from pdp_export.pipeline.requests import tolerance_for
from pdp_export.pipeline.side_by_side import side_by_side
from pdp_export.pipeline.validation_data import ValidationSet, reference_outputs
from pdp_export.pipeline.weights import program_weights
from pdp_export.recipe import TargetSection
from pdp_export.validation.target_check import Evidence, WrittenFile, check_file


def run(context: Context, output: Path) -> Outcome:
    """Write ``validation.json``: one result per target, latency and gates still open."""
    recipe = context.recipe
    program = load_program(context.output_of("remove-channels") / PRUNED_PROGRAM)
    dense = context.model(context.output_of("train-dense") / WEIGHTS)
    data = ValidationSet(context, dense)
    samples = data.samples()
    evidence = Evidence(
        weights=program_weights(program), inputs=samples,
        reference=reference_outputs(program.module(), samples, recipe.outputs),
        validation_chunks=data.chunks, judge=data.judge,
    )  # fmt: skip
    tasks = [
        (section.name, partial(check_file, _written(context, section), evidence, log=context.run.log))
        for section in recipe.targets
    ]
    results = side_by_side(tasks, "validating", context.observer)
    write_json(output / "validation.json", [result.model_dump(mode="json") for result in results])
    return Outcome(summary=" · ".join(_line(result) for result in results))


def read_results(context: Context) -> list[TargetResult]:
    """Return what this stage wrote."""
    values: list[dict[str, Any]] = context.read_json("validate", "validation.json")
    return [TargetResult.model_validate(value) for value in values]


def _written(context: Context, section: TargetSection) -> WrittenFile:
    target = registry.load(section.name).TARGET
    artifacts = context.run.artifacts
    return WrittenFile(
        target=section.name, title=target.title, precision=section.precision or target.precisions[0],
        encoding=section.encoding, folder=context.run.folder,
        file=context.run.relative(convert.artifact_path(artifacts, section.name, "pruned")),
        dense_file=context.run.relative(convert.artifact_path(artifacts, section.name, "dense")),
        atol=tolerance_for(context.recipe, section, target), declared=target,
    )  # fmt: skip


def _line(result: TargetResult) -> str:
    verdicts = ", ".join(f"{check.name} {check.verdict.replace('_', ' ')}" for check in result.checks)
    return f"{result.target} {verdicts}"
