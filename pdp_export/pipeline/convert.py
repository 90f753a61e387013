"""Stage 6: one file per target and role, each written by a child process and opened again."""

from __future__ import annotations

import json
from pathlib import Path

from pdp_export import files
from pdp_export.converters import registry
from pdp_export.pipeline.context import Context, Outcome
from pdp_export.pipeline.conversion import convert_file
from pdp_export.pipeline.manifest import ArtifactRecord
from pdp_export.pipeline.outputs import DENSE_PROGRAM, PRUNED_PROGRAM
from pdp_export.pipeline.requests import request_for
from pdp_export.recipe import Recipe, TargetSection
from pdp_export.results import FileFacts
from pdp_export.targets import ConvertRequest
from pdp_export.validation.isolated import describe

ARTIFACTS = "artifacts.json"


def run(context: Context, output: Path) -> Outcome:
    """Write ``model.<suffix>`` and ``dense/model.<suffix>`` for every target, and ``artifacts.json``."""
    recipe, programs = context.recipe, context.output_of("remove-channels")
    jobs = [(section, role) for section in recipe.targets for role in ("dense", "pruned")]
    records = []
    for done, (section, role) in enumerate(jobs):
        context.observer.progress("converting", done, len(jobs), f"{section.name} ({role})")
        program = programs / (PRUNED_PROGRAM if role == "pruned" else DENSE_PROGRAM)
        path = artifact_path(output, section.name, role)
        request = request_for(recipe, section, encoding="dense" if role == "dense" else None)
        convert_file(program, path, section.name, request, log=context.run.log)
        facts = describe(section.name, path, log=context.run.log)
        records.append(_record(section, role, path, output, request, facts))
    context.observer.progress("converting", len(jobs), len(jobs))
    (output / ARTIFACTS).write_text(
        json.dumps([r.model_dump(mode="json") for r in records], indent=2), encoding="utf-8"
    )
    sizes = ", ".join(f"{r.target} {r.bytes / 1e3:.0f} kB" for r in records if r.role == "pruned")
    return Outcome(summary=sizes, figures={f"{r.target}_{r.role}_bytes": r.bytes for r in records})


def artifact_path(folder: Path, target: str, role: str) -> Path:
    """Return where the file of a target lies below the artifacts folder."""
    name = f"model{registry.load(target).TARGET.suffix}"
    return folder / name if role == "pruned" else folder / "dense" / name


def read_artifacts(folder: Path) -> list[ArtifactRecord]:
    """Return the records that the convert stage left in its output folder."""
    values = json.loads((folder / ARTIFACTS).read_text(encoding="utf-8"))
    return [ArtifactRecord.model_validate(value) for value in values]


def section_of(recipe: Recipe, target: str) -> TargetSection:
    """Return the recipe's section of a target."""
    return next(section for section in recipe.targets if section.name == target)


def _record(
    section: TargetSection, role: str, path: Path, output: Path, request: ConvertRequest, facts: FileFacts
) -> ArtifactRecord:
    return ArtifactRecord(
        target=section.name, role="pruned" if role == "pruned" else "dense",
        path=f"artifacts/{path.relative_to(output).as_posix()}",
        bytes=files.size_bytes(path), sha256=files.sha256(path), format=facts.format,
        precision=request.precision, encoding=", ".join(f"{k} x{v}" for k, v in sorted(facts.encodings.items())),
        inputs=tuple(item.model_dump(mode="json") for item in facts.inputs),
        outputs=tuple(item.model_dump(mode="json") for item in facts.outputs),
        metadata=facts.metadata,
    )  # fmt: skip
