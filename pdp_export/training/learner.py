"""What is trained, and how one batch changes it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pdp_export.errors import TrainingStoppedError, UsageError
from pdp_export.recipe_training import TrainingSection
from pdp_export.training.batches import Batch
from pdp_export.training.distillation import Distiller
from pdp_export.training.finiteness import UNKNOWN, blame, diverged, gradients_finite
from pdp_export.training.processes import Crew
from pdp_export.training.rates import learning_rate
from pdp_export.training.records import Objective, OnProgress
from pdp_export.training.state import Trained

Forward = Callable[..., Any]
_NAMED = 5


@dataclass(frozen=True)
class Plan:
    """What was asked for; `steps` are batches per epoch, of this process."""

    settings: TrainingSection
    epochs: int
    lr: float
    seed: int
    steps: int
    phase: str
    on_progress: OnProgress

    @property
    def total(self) -> int:
        """Batches of the whole run."""
        return self.epochs * self.steps

    def group(self, done: int) -> tuple[int, int]:
        """Return the place of batch number `done` (from 0) among those of its optimizer step, and their number.

        The last step of an epoch takes what is left.
        """
        size, number = self.settings.accumulate, done % self.steps
        place = number % size
        return place, min(size, self.steps - (number - place))

    def rate(self, done: int) -> float:
        """Return the learning rate of the optimizer step to which batch number `done` belongs."""
        first = done - self.group(done)[0]
        return learning_rate(self.settings, self.lr, first, self.total)


class Local(nn.Module):
    """A model on this process alone, in the run's precision: neither gradients nor buffers travel."""

    def __init__(self, model: nn.Module, fabric: Fabric) -> None:
        super().__init__()
        self.model, self.fabric = model, fabric

    def forward(self, *inputs: Tensor) -> Any:
        """Return the model's outputs, floats as float32."""
        with self.fabric.autocast():
            outputs = self.model(*inputs)
        return tree_map(_as_float32, outputs)


@dataclass(frozen=True)
class Learner:
    """Model, optimizer and everything that makes the loss."""

    plan: Plan
    fabric: Fabric
    crew: Crew
    trained: Trained
    wrapped: nn.Module
    objective: Objective
    distiller: Distiller | None

    @property
    def local(self) -> Local:
        """The model, to be measured."""
        return Local(self.trained.model, self.fabric)

    def learn(self, batch: Batch, done: int) -> float:
        """Learn from batch number `done` of the run (from 0); return its loss, the mean over all processes.

        The optimizer steps at the last batch of a group; the gradient is that of the group's mean loss.

        Raises:
            TrainingStoppedError: NaN or Inf; names the first layer concerned.
            UsageError: with several processes, for parameters that take no part in the loss.
        """
        place, size = self.plan.group(done)
        last = place == size - 1
        inputs, target = self.fabric.to_device(batch)
        if place == 0:
            for group in self.trained.optimizer.param_groups:
                group["lr"] = self.plan.rate(done)
            self.trained.optimizer.zero_grad()
        with self.fabric.no_backward_sync(self.wrapped, enabled=not last):  # type: ignore[arg-type]
            loss = self._loss(self.wrapped, inputs, target)
            value = self.crew.mean(float(loss.detach()))
            finite = math.isfinite(value)
            if finite:
                self.fabric.backward(loss / size)
        if not finite or not self._gradients_finite(last):
            raise self._diverged(inputs, target, done + 1)
        if last:
            self._update(done + 1)
        return value

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights and their masks in place during the block, where there is an average."""
        average, pruner = self.trained.average, self.trained.pruner
        if average is None:
            yield
            return
        masks = None if pruner is None else pruner.state_dict()
        try:
            with average.swapped_in():
                if pruner is not None:
                    pruner.refresh()
                yield
        finally:
            if pruner is not None and masks is not None:
                pruner.load_state_dict(masks)

    def hand_over(self) -> None:
        """Leave in the model what the run is for: its average, where there is one."""
        if self.trained.average is not None:
            self.trained.average.write()
            if self.trained.pruner is not None:
                self.trained.pruner.refresh()

    def _loss(self, forward: Forward, inputs: tuple[Tensor, ...], target: Any) -> Tensor:
        if self.distiller is None:
            return self.objective.loss(forward(*inputs), target)
        outputs, hidden = self.distiller.forward(self.trained.model, forward, inputs)
        task = self.objective.loss(outputs, target)
        return self.distiller.loss(task, outputs, hidden, Local(self.distiller.teacher, self.fabric), inputs)

    def _update(self, done: int) -> None:
        trained = self.trained
        if not self.crew.alone and done <= self.plan.settings.accumulate:
            self._check_all_used()
        trained.optimizer.step()
        if trained.average is not None:
            trained.average.update()
        if trained.pruner is not None:
            trained.pruner.step(done / self.plan.total)

    def _gradients_finite(self, last: bool) -> bool:
        """Processes must agree, and only the summed gradients are the same in all."""
        return (not last and not self.crew.alone) or gradients_finite(self.trained.model)

    def _diverged(self, inputs: tuple[Tensor, ...], target: Any, step: int) -> TrainingStoppedError:
        """Find the layer concerned, in whatever process it is."""
        mine = blame(self.trained.model, inputs, lambda: self._loss(self.local, inputs, target))
        findings = [json.loads(other) for other in self.crew.gather(json.dumps(mine).encode())]
        known = [(rank, *finding) for rank, finding in enumerate(findings) if finding[1] != UNKNOWN]
        rank, message, where = known[0] if known else (0, *mine)
        return diverged(step, message if self.crew.alone else f"in process {rank}, {message}", where)

    def _check_all_used(self) -> None:
        """DDP waits for the gradient of every parameter, forever."""
        parameters = self.trained.model.named_parameters()
        unused = [name for name, value in parameters if value.requires_grad and value.grad is None]
        if unused:
            shown = ", ".join(unused[:_NAMED]) + (", ..." if len(unused) > _NAMED else "")
            raise UsageError(
                f"{len(unused)} parameters take no part in the loss ({shown}), which several processes cannot train",
                where=unused[0],
                hint="freeze them with requires_grad_(False), or start one process",
            )


def _as_float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
