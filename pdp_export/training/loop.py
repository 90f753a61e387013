"""The training loop: one function for the dense reference and for pruning alike."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from torch import nn

from pdp_export.errors import UsageError
from pdp_export.recipe_training import TrainingSection
from pdp_export.training.batches import BatchReader, length
from pdp_export.training.checkpoints import Checkpoints, Snapshot
from pdp_export.training.distillation import Distiller
from pdp_export.training.learner import Learner, Plan
from pdp_export.training.optimizers import build_optimizer
from pdp_export.training.processes import Crew, muster
from pdp_export.training.records import Loaders, Objective, OnProgress, TrainingResult
from pdp_export.training.run import Run
from pdp_export.training.sharding import part_of
from pdp_export.training.state import RunState, Trained, restore
from pdp_export.training.weight_average import WeightAverage

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
    distiller: Distiller | None = None,
    on_progress: OnProgress | None = None,
    phase: str = "train",
    input_names: Sequence[str] = (),
    dynamic: Mapping[int, Collection[int]] | None = None,
) -> TrainingResult:
    """Train `model` in place; with a `pruner`, move its masks on after every step.

    When `checkpoint_dir` holds a checkpoint of this very run (same seed, settings and parameters),
    training goes on from it, in the middle of an epoch if need be; on one thread the result is
    bit for bit that of the uninterrupted run. The model ends on the processor, in eval mode.

    Under torchrun every process calls this with the same model; each trains on its part of the batches, gradients
    are averaged, process 0 alone measures, reports and writes checkpoints, and its weights are the result.

    Args:
        model: The network, called as ``model(*inputs)``.
        loaders: Training and validation batches; the training loader has a length.
        objective: Loss and per-sample score.
        settings: Optimizer, schedule, accumulation, averaging, device, precision, threads, checkpoints.
        epochs: Passes over the training loader.
        lr: The highest learning rate.
        seed: Seeds python, numpy and torch, together with the number of each epoch.
        checkpoint_dir: Where checkpoints are written: every epoch, and every N steps.
        pruner: Masks to anneal; its progress is the share of all steps done. Not hardened here.
        distiller: A teacher whose answers enter the loss.
        on_progress: Called after every step and every validation, for a progress bar.
        phase: A name that `on_progress` is given.
        input_names: The model's order of inputs, for batches that are dicts.
        dynamic: Axes that may change from batch to batch, by input index; axis 0 always may.

    Raises:
        TrainingStoppedError: NaN or Inf; names the first layer concerned. The last good checkpoint stays.
        DataError: for an empty loader, or batches whose shapes change.
        FileError: when checkpoints exist but none can be used.
        UsageError: for a device that is not here, or a model that several processes cannot train.
        RecipeError: when teacher and model do not fit.
        ProofError: when the masks of two processes differ.
        KeyboardInterrupt: after a checkpoint was saved.
    """
    crew = muster()
    own = _Own(part_of(loaders.train, crew), loaders.validation)
    fabric = _fabric(settings, crew)
    steps = length(own.train, "train")
    plan = Plan(settings, epochs, lr, seed, steps, phase, on_progress or (lambda _: None))
    checkpoints = Checkpoints(checkpoint_dir, _identity(model, plan, pruner, distiller, crew))
    try:
        with _threads(settings.threads):
            crew.share_tensors(model.state_dict())
            wrapped, optimizer = fabric.setup(model, build_optimizer(model, settings, lr))
            if distiller is not None:
                distiller.prepare(model, fabric.device)
            average = WeightAverage(model, settings.ema) if settings.ema else None
            trained = Trained(model, optimizer, pruner, average)
            state, resumed_at = _resumed(checkpoints, trained, crew)
            learner = Learner(plan, fabric, crew, trained, wrapped, objective, distiller)
            Run(learner, own, checkpoints, BatchReader(input_names, dynamic), state).finish()
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


@dataclass(frozen=True)
class _Own:
    """The loaders of this process."""

    train: Iterable[Any]
    validation: Iterable[Any]


def _resumed(checkpoints: Checkpoints, trained: Trained, crew: Crew) -> tuple[RunState, int | None]:
    """Return the state to go on from, and its step; process 0 reads the checkpoint and sends it to the others."""
    found = checkpoints.latest() if crew.leads else None
    if not crew.alone:
        content = crew.share(found.to_bytes() if found else b"")
        found = found or (Snapshot.from_bytes(content) if content else None)
    if found is None:
        return RunState(), None
    state = restore(found, trained, crew.rank)
    return state, state.step


def _fabric(settings: TrainingSection, crew: Crew) -> Fabric:
    several: dict[str, Any] = {"num_nodes": crew.size // crew.local, "strategy": "ddp"}
    try:
        fabric = Fabric(
            accelerator=settings.device,
            devices=crew.local,
            precision=settings.precision,
            **({} if crew.alone else several),
        )
        fabric.launch()
    except Exception as error:  # Fabric raises its own kinds for names it does not know and for absent devices
        raise UsageError(
            f"device {settings.device!r} with precision {settings.precision!r} cannot be used"
            f"{'' if crew.alone else f' by {crew.local} processes'}: {error}",
            where="training.device",
            hint="use auto, cpu, cuda or mps",
        ) from error
    return fabric


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _identity(
    model: nn.Module, plan: Plan, pruner: Pruner | None, distiller: Distiller | None, crew: Crew
) -> dict[str, Any]:
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
        "distillation": None if distiller is None else distiller.identity(),
        "processes": crew.size,
    }
