"""The training loop: one function for the dense reference and for pruning alike."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from torch import nn

from pdp_export.errors import UsageError
from pdp_export.recipe import TrainingSection
from pdp_export.training.batches import BatchReader, length
from pdp_export.training.checkpoints import Checkpoints
from pdp_export.training.optimizers import build_optimizer
from pdp_export.training.records import Loaders, Objective, OnProgress, TrainingResult
from pdp_export.training.run import Plan, Run
from pdp_export.training.state import RunState, restore

if TYPE_CHECKING:
    from pdp_export.pruning import Pruner


def train(
    model: nn.Module,
    loaders: Loaders,
    objective: Objective,
    settings: TrainingSection,
    *,
    epochs: int,
    lr: float,
    seed: int,
    checkpoint_dir: Path,
    pruner: Pruner | None = None,
    on_progress: OnProgress | None = None,
    phase: str = "train",
    input_names: Sequence[str] = (),
    dynamic: Mapping[int, Collection[int]] | None = None,
) -> TrainingResult:
    """Train `model` in place; with a `pruner`, move its masks on after every step.

    When `checkpoint_dir` holds a checkpoint of this very run (same seed, settings and parameters),
    training goes on from it, in the middle of an epoch if need be; on one thread the result is
    bit for bit that of the uninterrupted run. The model ends on the processor, in eval mode.

    Args:
        model: The network, called as ``model(*inputs)``.
        loaders: Training and validation batches; the training loader has a length.
        objective: Loss and per-sample score.
        settings: Optimizer, schedule, device, precision, threads and checkpoint interval.
        epochs: Passes over the training loader.
        lr: The highest learning rate.
        seed: Seeds python, numpy and torch, together with the number of each epoch.
        checkpoint_dir: Where checkpoints are written: every epoch, and every N steps.
        pruner: Masks to anneal; its progress is the share of all steps done. Not hardened here.
        on_progress: Called after every step and every validation, for a progress bar.
        phase: A name that `on_progress` is given.
        input_names: The model's order of inputs, for batches that are dicts.
        dynamic: Axes that may change from batch to batch, by input index; axis 0 always may.

    Raises:
        TrainingStoppedError: NaN or Inf; names the first layer concerned. The last good checkpoint stays.
        DataError: for an empty loader, or batches whose shapes change.
        FileError: when checkpoints exist but none can be used.
        UsageError: for a device that is not here, or several processes.
        KeyboardInterrupt: after a checkpoint was saved.
    """
    steps = length(loaders.train, "train")
    fabric = _fabric(settings)
    plan = Plan(settings, epochs, lr, seed, steps, phase, on_progress or (lambda _: None))
    checkpoints = Checkpoints(checkpoint_dir, _identity(model, plan, pruner))
    try:
        with _threads(settings.threads):
            wrapped, optimizer = fabric.setup(model, build_optimizer(model, settings, lr))
            found = checkpoints.latest()
            state = restore(found, model, optimizer, pruner) if found else RunState()
            resumed_at = state.step if found else None
            reader = BatchReader(input_names, dynamic)
            Run(
                plan, fabric, model, wrapped, optimizer, loaders, objective, pruner, checkpoints, reader, state
            ).finish()
    finally:
        model.to("cpu")
        model.eval()
    return TrainingResult(
        history=tuple(state.history),
        metric=state.history[-1].metric,
        steps=state.step,
        resumed_at=resumed_at,
        warnings=tuple(checkpoints.warnings),
    )


def _fabric(settings: TrainingSection) -> Fabric:
    try:
        fabric = Fabric(accelerator=settings.device, devices=1, precision=settings.precision)
    except Exception as error:  # Fabric raises its own kinds for names it does not know and for absent devices
        raise UsageError(
            f"device {settings.device!r} with precision {settings.precision!r} cannot be used: {error}",
            where="training.device",
            hint="use auto, cpu, cuda or mps",
        ) from error
    if fabric.world_size > 1:
        raise UsageError(
            f"training in {fabric.world_size} processes is not supported yet",
            where="torchrun",
            hint="start one process",
        )
    return fabric


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _identity(model: nn.Module, plan: Plan, pruner: Pruner | None) -> dict[str, Any]:
    """Return what makes a checkpoint this run's own: whatever changes the result, but not where it runs."""
    shapes = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    return {
        "epochs": plan.epochs,
        "lr": plan.lr,
        "seed": plan.seed,
        "steps per epoch": plan.steps,
        "settings": plan.settings.model_dump(exclude={"threads", "device", "checkpoint_every_steps"}),
        "parameters": hashlib.sha256(repr(shapes).encode()).hexdigest(),
        "pruning": None if pruner is None else pruner.identity(),
    }
