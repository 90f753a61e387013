"""Runs the stages: each writes to a temporary folder, is renamed, then recorded. Resume follows from that."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from pdp_export import files
from pdp_export.errors import InterruptedRunError, PdpExportError, UsageError
from pdp_export.pipeline import environment, manifest, stages
from pdp_export.pipeline.context import LOGGER, Context, StageFunction
from pdp_export.pipeline.manifest import Manifest, StageRecord
from pdp_export.pipeline.stages import STAGES, Stage
from pdp_export.recipe import Recipe
from pdp_export.results import StageResult
from pdp_export.tasks.references import source_file


@dataclass(frozen=True)
class Selection:
    """Which stages to run: all, one (`only`), from one on again (`from_stage`), or up to one (`until`)."""

    only: str | None = None
    from_stage: str | None = None
    until: str | None = None

    def stages(self) -> Sequence[Stage]:
        """Return the selected stages in order.

        Raises:
            UsageError: for an unknown stage.
        """
        if self.from_stage is not None:
            stages.position(self.from_stage)
        if self.only is not None:
            return [STAGES[stages.position(self.only)]]
        end = len(STAGES) if self.until is None else stages.position(self.until) + 1
        return STAGES[:end]

    def forced(self, stage: Stage) -> bool:
        """Whether a finished stage must run again."""
        if self.only is not None:
            return True
        return self.from_stage is not None and stages.position(stage.name) >= stages.position(self.from_stage)


def run_stages(context: Context, selection: Selection, command: str) -> Manifest:
    """Run the selected stages that are not finished yet and return the manifest.

    Raises:
        PdpExportError: of the failing stage, its place in the list prefixed to `where`.
        InterruptedRunError: on Ctrl-C; what was finished is kept.
    """
    stages.check_order(STAGES)
    book = _forget_forced(context, selection, _open_manifest(context, command))
    with _logging_to(context.run.log):
        for stage in selection.stages():
            try:
                book = _run_one(context, stage, book)
            except KeyboardInterrupt as error:
                raise InterruptedRunError(
                    f"interrupted in {_place(stage)}; everything finished so far is saved",
                    where=context.run.folder.name,
                    hint="go on with --resume",
                ) from error
    return book


def _forget_forced(context: Context, selection: Selection, book: Manifest) -> Manifest:
    """Strike the stages that shall run again, so that an interrupted repetition is gone on with by ``--resume``."""
    forced = [stage for stage in selection.stages() if selection.forced(stage)]
    if selection.only is not None:
        _require_needs(forced[0], book)
    if not forced:
        return book
    book = book.without_stages([stage.name for stage in forced])
    for stage in forced:
        files.remove(context.run.checkpoints(stage.name))
    manifest.write(book, context.run.folder)
    return book


def _run_one(context: Context, stage: Stage, book: Manifest) -> Manifest:
    index, count = stages.position(stage.name) + 1, len(STAGES)
    _require_needs(stage, book)
    inputs = input_hash(stage, context.recipe, book)
    folder = context.run.folder / stages.folder_of(stage)
    if is_finished(book, stage, inputs, folder):
        files.remove(context.run.checkpoints(stage.name))
        context.observer.stage_skipped(index, count, stage.name)
        return book
    context.checkpoint_dir = context.run.checkpoints(stage.name) / inputs[:12]
    context.observer.stage_started(index, count, stage.name)
    start = time.perf_counter()
    function = _load(stage)
    try:
        with files.atomic_path(folder) as partial:
            partial.mkdir()
            outcome = function(context, partial)
    except PdpExportError as error:
        error.where = f"{_place(stage)}: {error.where}" if error.where else _place(stage)
        LOGGER.exception("%s failed", _place(stage))
        raise
    seconds = round(time.perf_counter() - start, 3)
    result = StageResult(
        name=stage.name, seconds=seconds, summary=outcome.summary, figures=outcome.figures, warnings=outcome.warnings
    )
    record = StageRecord(
        input_sha256=inputs, output_sha256=files.sha256(folder), finished_utc=_now(),
        versions=environment.library_versions(), result=result,
    )  # fmt: skip
    book = book.with_stage(stage.name, record, outcome.artifacts)
    manifest.write(book, context.run.folder)
    files.remove(context.run.checkpoints(stage.name))
    LOGGER.info("stage %s done in %.1f s: %s", stage.name, seconds, result.summary)
    context.observer.stage_done(index, count, result)
    return book


def _place(stage: Stage) -> str:
    return f"stage {stages.position(stage.name) + 1}/{len(STAGES)} {stage.name}"


def is_finished(book: Manifest, stage: Stage, inputs: str, folder: Path) -> bool:
    """Whether a stage is recorded with the same inputs and its output is still what it wrote."""
    record = book.stages.get(stage.name)
    return (
        record is not None
        and record.input_sha256 == inputs
        and folder.is_dir()
        and files.sha256(folder) == record.output_sha256
    )


def input_hash(stage: Stage, recipe: Recipe, book: Manifest) -> str:
    """Return the hash of everything a stage reads: recipe keys, the user's files, outputs of its needs, our version."""
    values = recipe.model_dump(mode="json")
    read: dict[str, Any] = {section: values[section] for section in stage.sections}
    read["needs"] = {need: book.stages[need].output_sha256 for need in stage.needs}
    read["sources"] = _user_files(recipe, stage.sections)
    read["tool"] = environment.tool_version()
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _user_files(recipe: Recipe, sections: Sequence[str]) -> dict[str, str]:
    references = {
        "model": [recipe.model.factory],
        "data": [recipe.data.factory],
        "task": [name for name in (recipe.task.loss, recipe.task.metric) if ":" in name],
    }
    found = {}
    for section in sections:
        for reference in references.get(section, []):
            path = source_file(reference, recipe.folder)
            if path is not None and path.is_file():
                found[reference] = files.sha256(path)
    if "model" in sections and recipe.model.weights:
        weights = recipe.folder / recipe.model.weights
        found["weights"] = files.sha256(weights) if weights.is_file() else "missing"
    return found


def _require_needs(stage: Stage, book: Manifest) -> None:
    missing = [need for need in stage.needs if need not in book.stages]
    if missing:
        raise UsageError(
            f"stage {stage.name!r} needs {', '.join(missing)}, which is not finished in this run",
            where="--only",
            hint=f"run with --resume first, or --only {missing[0]}",
        )


def _open_manifest(context: Context, command: str) -> Manifest:
    folder, recipe = context.run.folder, context.recipe
    text = recipe.effective_yaml()
    commit, dirty = environment.git_state(recipe.folder)
    common = {
        "command": command,
        "seed": recipe.seed,
        "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "sources": _user_files(recipe, ("model", "data", "task")),
        "recipe_folder": Path(os.path.relpath(recipe.folder.resolve(), folder.resolve())).as_posix(),
        "tool_version": environment.tool_version(),
        "git_commit": commit,
        "git_dirty": dirty,
        "environment": environment.describe(device=recipe.training.device).model_dump(mode="json"),
    }
    if (folder / manifest.FILE_NAME).exists():
        book = manifest.read(folder).model_copy(update=common)
    else:
        book = Manifest(created_utc=_now(), **common)
    manifest.write(book, folder)
    return book


def _load(stage: Stage) -> StageFunction:
    module, _, name = stage.function.partition(":")
    return cast(StageFunction, getattr(importlib.import_module(module), name))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Log(logging.FileHandler):
    """A log file that stays silent on a full disk: the error that stopped the run is what must be seen."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Give the line up."""

    def close(self) -> None:
        """Close the file, whether or not the last lines find room."""
        with contextlib.suppress(OSError):
            super().close()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        handler.close()
