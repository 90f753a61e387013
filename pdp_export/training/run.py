"""One run of the loop: its counters, and the step, the epoch and the checkpoint between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pdp_export.errors import DataError
from pdp_export.recipe import TrainingSection
from pdp_export.training.batches import Batch, BatchReader
from pdp_export.training.checkpoints import Checkpoints
from pdp_export.training.evaluation import evaluate
from pdp_export.training.finiteness import diverged, gradients_finite
from pdp_export.training.interruption import InterruptGuard
from pdp_export.training.optimizers import learning_rate
from pdp_export.training.randomness import RandomState, seed_epoch
from pdp_export.training.records import EpochRecord, Loaders, Objective, OnProgress, Progress
from pdp_export.training.state import RunState, take

if TYPE_CHECKING:
    from pdp_export.pruning import Pruner


@dataclass(frozen=True)
class Plan:
    """What was asked for; `steps` are batches per epoch."""

    settings: TrainingSection
    epochs: int
    lr: float
    seed: int
    steps: int
    phase: str
    on_progress: OnProgress


@dataclass
class Run:
    """A run in progress. `whole` is False in the middle of an update, when nothing may be saved."""

    plan: Plan
    fabric: Fabric
    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    loaders: Loaders
    objective: Objective
    pruner: Pruner | None
    checkpoints: Checkpoints
    reader: BatchReader
    state: RunState
    guard: InterruptGuard = field(default_factory=InterruptGuard)
    whole: bool = True
    dirty: bool = False

    def finish(self) -> None:
        """Train the epochs that are left.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after a checkpoint was saved.
        """
        with self.guard.installed():
            try:
                while self.state.epoch < self.plan.epochs:
                    self._epoch()
            except KeyboardInterrupt:
                if self.whole and self.dirty:
                    self._save()
                raise

    def _epoch(self) -> None:
        state, started = self.state, time.perf_counter()
        spent = state.seconds
        every = self.plan.settings.checkpoint_every_steps
        self.wrapped.train()
        for batch in self._batches_left():
            with self.guard.held():
                loss = self._update(batch)
                state.seconds = spent + time.perf_counter() - started
            self._tell(loss)
            if every and state.step % every == 0:
                self._save()
        metric = evaluate(
            self.wrapped,
            self.loaders.validation,
            self.objective,
            input_names=self.reader.names,
            dynamic=self.reader.dynamic,
        )
        self._close_epoch(metric, spent + time.perf_counter() - started)
        self._tell(state.history[-1].loss)

    def _batches_left(self) -> Iterator[Batch]:
        """Start the epoch's order again, pass over what is consumed, and put the random state back."""
        plan, state = self.plan, self.state
        seed_epoch(plan.seed, state.epoch, self.loaders.train)
        done = state.consumed
        number = 0
        for number, batch in enumerate(self.reader.read(self.loaders.train), start=1):
            if number > plan.steps:
                break
            if number > done:
                yield batch
            elif number == done:
                state.random.restore()
        if number != plan.steps:
            raise DataError(
                f"the train loader says {plan.steps} batches and yields {'more' if number > plan.steps else number}",
                where="data.factory: train",
                hint="make __len__ and the iteration agree",
            )

    def _update(self, batch: Batch) -> float:
        self.whole = False
        state = self.state
        inputs, target = self.fabric.to_device(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(state.step)
        self.optimizer.zero_grad()

        def compute() -> Tensor:
            return self.objective.loss(self.wrapped(*inputs), target)

        loss = compute()
        value = float(loss.detach())
        if bool(loss.isfinite()):
            self.fabric.backward(loss)
        if not (bool(loss.isfinite()) and gradients_finite(self.model)):
            raise diverged(self.model, inputs, compute, state.step + 1)
        self.optimizer.step()
        state.step += 1
        state.consumed += 1
        state.loss_sum += value
        if self.pruner is not None:
            self.pruner.step(self._share(state.step))
        state.random = RandomState.snapshot()
        self.whole = self.dirty = True
        return value

    def _share(self, steps: int) -> float:
        return steps / (self.plan.epochs * self.plan.steps)

    def _rate(self, steps: int) -> float:
        return learning_rate(self.plan.settings, self.plan.lr, self._share(steps))

    def _close_epoch(self, metric: float, seconds: float) -> None:
        state = self.state
        record = EpochRecord(
            epoch=state.epoch + 1,
            loss=state.loss_sum / self.plan.steps,
            metric=metric,
            lr=self._rate(state.step - 1),
            seconds=seconds,
            sparsity=None if self.pruner is None else self.pruner.sparsity,
        )
        with self.guard.held():
            state.history.append(record)
            state.epoch, state.consumed, state.loss_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0
            self.dirty = True
            self._save()

    def _save(self) -> None:
        self.checkpoints.save(self.state.step, take(self.state, self.model, self.optimizer, self.pruner))
        self.dirty = False

    def _tell(self, loss: float) -> None:
        state, plan = self.state, self.plan
        between = state.consumed == 0  # a validation has just closed the epoch
        tick = Progress(
            phase=plan.phase,
            epoch=state.epoch if between else state.epoch + 1,
            epochs=plan.epochs,
            step=plan.steps if between else state.consumed,
            steps=plan.steps,
            loss=loss,
            metric=state.history[-1].metric if state.history else None,
        )
        plan.on_progress(tick)
