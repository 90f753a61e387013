"""Stage 6: one file per target and role, each written by a child process and opened again."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from pdp_export import files
from pdp_export.converters import registry
from pdp_export.pipeline import calibration
from pdp_export.pipeline.context import Context, Outcome
from pdp_export.pipeline.conversion import Job, convert_files
from pdp_export.pipeline.manifest import ArtifactRecord
from pdp_export.pipeline.outputs import DENSE_PROGRAM, PRUNED_PROGRAM
from pdp_export.pipeline.requests import request_for
from pdp_export.pipeline.side_by_side import side_by_side
from pdp_export.recipe import TargetSection
from pdp_export.report import formatting
from pdp_export.results import FileFacts
from pdp_export.validation.isolated import describe


def run(context: Context, output: Path) -> Outcome:
    """Write ``model.<suffix>`` and ``dense/model.<suffix>`` for every target."""
    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        samples = calibration.write(context, Path(folder)) if calibration.needed(context.recipe) else None
        tasks = [
            (section.name, partial(_convert, context, section, output, samples)) for section in context.recipe.targets
        ]
        written = side_by_side(tasks, "converting", context.observer)
    records = [record for pair in written for record in pair]
    sizes = ", ".join(f"{r.target} {formatting.size(r.bytes)}" for r in records if r.role == "pruned")
    figures = {f"{r.target}_{r.role}_bytes": r.bytes for r in records}
    return Outcome(summary=sizes, figures=figures, artifacts=tuple(records))


def _convert(context: Context, section: TargetSection, output: Path, samples: Path | None) -> list[ArtifactRecord]:
    """Write the dense and the pruned file of one target, and read back what they hold."""
    programs, log = context.output_of("remove-channels"), context.run.log
    dense = Job(
        programs / DENSE_PROGRAM,
        artifact_path(output, section.name, "dense"),
        request_for(context.recipe, section, role="dense"),
    )
    pruned = Job(
        programs / PRUNED_PROGRAM,
        artifact_path(output, section.name, "pruned"),
        request_for(context.recipe, section, calibration=samples),
    )
    convert_files(section.name, [dense, pruned], log)
    return [
        _record(section.name, role, job, output, describe(section.name, job.path, log=log))
        for role, job in (("dense", dense), ("pruned", pruned))
    ]


def artifact_path(folder: Path, target: str, role: str) -> Path:
    """Return where the file of a target lies below the artifacts folder."""
    name = f"model{registry.load(target).TARGET.suffix}"
    return folder / name if role == "pruned" else folder / "dense" / name


def _record(target: str, role: str, job: Job, output: Path, facts: FileFacts) -> ArtifactRecord:
    return ArtifactRecord(
        target=target,
        role="pruned" if role == "pruned" else "dense",
        path=f"artifacts/{job.path.relative_to(output).as_posix()}",
        bytes=files.size_bytes(job.path),
        sha256=files.sha256(job.path),
        format=facts.format,
        precision=job.request.precision,
        encoding=", ".join(f"{name} x{count}" for name, count in sorted(facts.encodings.items())),
        inputs=tuple(item.model_dump(mode="json") for item in facts.inputs),
        outputs=tuple(item.model_dump(mode="json") for item in facts.outputs),
        metadata=facts.metadata,
    )
