"""Whether a stage's output still belongs to what it would read now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from pdp_export import files
from pdp_export.errors import UsageError
from pdp_export.pipeline import environment, stages
from pdp_export.pipeline.manifest import Manifest
from pdp_export.pipeline.stages import STAGES, Stage
from pdp_export.recipe import Recipe
from pdp_export.tasks.user_files import source_files


def input_hash(stage: Stage, recipe: Recipe, book: Manifest) -> str:
    """Return the hash of everything a stage reads: recipe keys, the user's files, outputs of its needs, our version."""
    values = recipe.model_dump(mode="json")
    read: dict[str, Any] = {keys: reduce(getitem, keys.split("."), values) for keys in stage.sections}
    read["needs"] = {need: book.stages[need].output_sha256 for need in stage.needs}
    read["sources"] = user_files(recipe, stage.sections)
    read["tool"] = environment.tool_version()
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def is_finished(book: Manifest, stage: Stage, inputs: str, folder: Path) -> bool:
    """Whether a stage is recorded with the same inputs and its output is still what it wrote."""
    record = book.stages.get(stage.name)
    return (
        record is not None
        and record.input_sha256 == inputs
        and folder.is_dir()
        and files.sha256(folder) == record.output_sha256
    )


def require_finished(names: Sequence[str], recipe: Recipe, book: Manifest, folder: Path, flag: str) -> None:
    """Check that stages, and what they read in turn, are finished with this very recipe.

    Raises:
        UsageError: naming the first stage that is not, before anything is written.
    """
    wanted = _with_needs(names)
    for stage in STAGES:
        if stage.name not in wanted:
            continue
        known = all(need in book.stages for need in stage.needs)
        if known and is_finished(book, stage, input_hash(stage, recipe, book), folder / stages.folder_of(stage)):
            continue
        state = (
            "was finished with another recipe, task file or version" if stage.name in book.stages else "is not finished"
        )
        raise UsageError(
            f"stage {stage.name!r} {state}, and this would go on from it",
            where=flag,
            hint="bring the run up to date first: pdp-export prune-and-convert --recipe ... --output ... --resume",
        )


def user_files(recipe: Recipe, sections: Sequence[str]) -> dict[str, str]:
    """Return the sha256 of the user's files behind these recipe sections, by reference and file name."""
    references = {
        "model": [recipe.model.factory],
        "data": [recipe.data.factory],
        "task": [name for name in (recipe.task.loss, recipe.task.metric) if ":" in name],
    }
    found = {}
    for section in sections:
        for reference in references.get(section, []):
            for path in source_files(reference, recipe.folder):
                found[f"{reference} {path.name}"] = files.sha256(path)
    if "model" in sections and recipe.model.weights:
        weights = recipe.folder / recipe.model.weights
        found["weights"] = files.sha256(weights) if weights.is_file() else "missing"
    return found


def _with_needs(names: Sequence[str]) -> set[str]:
    wanted, waiting = set(names), list(names)
    while waiting:
        for need in STAGES[stages.position(waiting.pop())].needs:
            if need not in wanted:
                wanted.add(need)
                waiting.append(need)
    return wanted
