"""The pipeline as a visible list: one line and one reason per stage.

A stage reads the outputs of the stages in `needs` and the recipe keys in `sections` ("benchmark.threads" is one key of
a section); nothing else may change its result. That is what makes resuming safe: a stage is skipped only if all of
it is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pdp_export.errors import UsageError, near_misses

_TASK = ("seed", "model", "data", "task", "inputs", "outputs")


@dataclass(frozen=True)
class Stage:
    """One stage. `function` is ``module:function`` and is imported only when the stage runs."""

    name: str
    needs: tuple[str, ...]
    sections: tuple[str, ...]
    function: str
    reason: str


STAGES = (
    Stage("check", (), (*_TASK, "preprocessing", "pruning", "distillation", "targets"), "pdp_export.pipeline.check:run",
          "everything that can be refused is refused before an hour of training"),
    Stage("train-dense", ("check",), (*_TASK, "training"), "pdp_export.pipeline.dense:run",
          "the reference for accuracy, size and latency: the user's weights, or one run of the same recipe"),
    Stage("prune", ("train-dense",), (*_TASK, "training", "pruning", "distillation"), "pdp_export.pipeline.prune:run",
          "the only stage that may change the function: soft masks while training"),
    Stage("harden", ("train-dense", "prune"), (*_TASK, "pruning"), "pdp_export.pipeline.harden:run",
          "masks become exact zeros, from here on the only record of pruning"),
    Stage("remove-channels", ("train-dense", "harden"),
          (*_TASK, "pruning", "removal", "targets", "benchmark.threads"), "pdp_export.pipeline.remove:run",
          "after the zeros are exact and before any format knows the shapes"),
    Stage("convert", ("remove-channels",), (*_TASK, "preprocessing", "targets", "pruning"),
          "pdp_export.pipeline.convert:run", "one file per target, dense and pruned; sparse encoding comes last"),
    Stage("validate", ("train-dense", "remove-channels", "convert"), (*_TASK, "targets", "preprocessing", "gates"),
          "pdp_export.pipeline.validate:run", "every file is opened again from the disk and compared"),
    Stage("bench", ("convert",), ("inputs", "targets", "benchmark"), "pdp_export.pipeline.bench:run",
          "latency last, when nothing else is running"),
    Stage("report", ("check", "train-dense", "prune", "harden", "remove-channels", "convert", "validate", "bench"),
          ("name", *_TASK, "preprocessing", "training", "pruning", "distillation", "removal", "targets", "gates",
           "benchmark"), "pdp_export.pipeline.summarise:run", "one verdict over everything that was measured"),
)  # fmt: skip

NAMES = tuple(stage.name for stage in STAGES)


def position(name: str) -> int:
    """Return the index of a stage.

    Raises:
        UsageError: for an unknown stage, with near misses.
    """
    if name not in NAMES:
        raise UsageError(f"unknown stage {name!r}{near_misses(name, NAMES)}", hint=f"use one of: {', '.join(NAMES)}")
    return NAMES.index(name)


def check_order(stages: Sequence[Stage]) -> None:
    """Raise UsageError when a stage stands before one whose output it reads."""
    seen: set[str] = set()
    for stage in stages:
        early = [need for need in stage.needs if need not in seen]
        if early:
            raise UsageError(
                f"stage {stage.name!r} reads {', '.join(early)}, which does not come before it", where="stages"
            )
        seen.add(stage.name)


def folder_of(stage: Stage) -> str:
    """Return the stage's output folder, relative to the run directory."""
    if stage.name == "convert":
        return "artifacts"
    return f"stages/{position(stage.name) + 1:02d}-{stage.name}"
