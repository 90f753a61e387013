"""The other processes of a run under torchrun: they take part in the training stages and otherwise wait.

Process 0 runs the pipeline as always. Before it trains it tells the others which stage; they make the same model
and data from the recipe, get the weights from process 0, and never touch the run directory.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdp_export.errors import UsageError
from pdp_export.pipeline.context import Context
from pdp_export.pipeline.observer import Silent
from pdp_export.pipeline.run_directory import RunDirectory
from pdp_export.recipe import Recipe

# What a stage does in every process, as ``module:function`` taking the context.
_TRAINING = {"train-dense": "pdp_export.pipeline.dense:trained", "prune": "pdp_export.pipeline.prune:trained"}


def is_follower() -> bool:
    """Whether torchrun started this process as another than the first."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def follow(recipe: Recipe) -> None:
    """Take part in training whenever process 0 says so, until it dismisses this process."""
    from pdp_export.training.processes import leave, muster

    crew = muster()
    context = Context(recipe, RunDirectory(Path()), Silent(), crew=crew)
    while (stage := crew.share_value()) is not None:
        module, _, name = _TRAINING[stage].partition(":")
        getattr(importlib.import_module(module), name)(context)
    leave()


@contextmanager
def leading(context: Context) -> Iterator[None]:
    """Dismiss the other processes at the end.

    After an error in the middle of training they are left to torchrun, which ends them.

    Raises:
        UsageError: in another process than the first.
    """
    if is_follower():
        raise UsageError(
            "only process 0 runs the pipeline",
            where="torchrun",
            hint="call pdp_export.prune_and_convert in every process, or use the command line",
        )
    from pdp_export.training.processes import leave, muster

    context.crew = muster()
    try:
        yield
    finally:
        if not context.together:
            context.crew.share_value(None)
            leave()


@contextmanager
def together(context: Context, stage: str) -> Iterator[None]:
    """Run the block in every process at once: process 0 calls the others to it."""
    if context.crew.leads:
        context.crew.share_value(stage)
    context.together = True
    yield
    context.together = False
