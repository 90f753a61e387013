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
from typing import cast

from pdp_export import files
from pdp_export.errors import InterruptedRunError, PdpExportError, UsageError, first_line
from pdp_export.pipeline import environment, freshness, manifest, run_directory, stages
from pdp_export.pipeline.context import LOGGER, Context, StageFunction
from pdp_export.pipeline.manifest import Manifest, StageRecord
from pdp_export.pipeline.stages import STAGES, Stage
from pdp_export.results import StageResult
from pdp_export.tasks.user_source import user_line


@dataclass(frozen=True)
class Selection:
    """Which stages to run: all, one (`only`), from one on again (`from_stage`), or up to one (`until`).

    With `up_to_date` the stages before `from_stage` must be finished with this recipe; otherwise they
    run first.
    """

    only: str | None = None
    from_stage: str | None = None
    until: str | None = None
    up_to_date: bool = False

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
    _refuse_stale(context, selection)
    files.write_text(context.run.folder / run_directory.RECIPE, context.recipe.effective_yaml())
    book = _forget_forced(context, selection, _open_manifest(context, command))
    with _logging_to(context.run.log), _threads(context.recipe.training.threads):
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


def _refuse_stale(context: Context, selection: Selection) -> None:
    """Refuse to build one stage upon others that belong to another recipe."""
    folder = context.run.folder
    if selection.only is None and not selection.up_to_date:
        return
    if selection.only is not None:
        needs = STAGES[stages.position(selection.only)].needs
        if needs:
            freshness.require_finished(needs, context.recipe, manifest.read(folder), folder, "--only")
    elif selection.from_stage is not None:
        book = manifest.read(folder)
        earlier = stages.NAMES[: stages.position(selection.from_stage)]
        freshness.require_finished(earlier, context.recipe, book, folder, folder.name)


def _forget_forced(context: Context, selection: Selection, book: Manifest) -> Manifest:
    """Strike the stages that shall run again, so that an interrupted repetition is gone on with by ``--resume``."""
    forced = [stage for stage in selection.stages() if selection.forced(stage)]
    if not forced:
        return book
    book = book.without_stages([stage.name for stage in forced])
    for stage in forced:
        files.remove(context.run.checkpoints(stage.name))
    manifest.write(book, context.run.folder)
    return book


def _run_one(context: Context, stage: Stage, book: Manifest) -> Manifest:
    index, count = stages.position(stage.name) + 1, len(STAGES)
    inputs = freshness.input_hash(stage, context.recipe, book)
    folder = context.run.folder / stages.folder_of(stage)
    if freshness.is_finished(book, stage, inputs, folder):
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
    except OSError:
        raise
    except Exception as error:
        LOGGER.exception("%s failed", _place(stage))
        line = user_line(error)
        if line is None:
            raise
        raise UsageError(
            f"your code raised {first_line(error)}",
            where=f"{_place(stage)}: {line}",
            hint="the whole traceback is in log.txt of the run directory",
        ) from error
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


def _open_manifest(context: Context, command: str) -> Manifest:
    folder, recipe = context.run.folder, context.recipe
    text = recipe.effective_yaml()
    commit, dirty = environment.git_state(recipe.folder)
    common = {
        "command": command,
        "seed": recipe.seed,
        "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "sources": freshness.user_files(recipe, ("model", "data", "task")),
        "tool_version": environment.tool_version(),
        "git_commit": commit,
        "git_dirty": dirty,
        "environment": environment.describe(device=environment.device_name(recipe.training.device)).model_dump(
            mode="json"
        ),
    }
    origin = Path(os.path.relpath(recipe.folder.resolve(), folder.resolve())).as_posix()
    files.write_text(folder / run_directory.ORIGIN, json.dumps({"recipe_folder": origin}))
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


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let every stage compute on the recipe's number of threads; 0 leaves torch's choice."""
    import torch

    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
