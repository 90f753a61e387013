"""One run of the loop: its counters, and the epoch, the validation and the checkpoint between the steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from pdp_export.errors import DataError
from pdp_export.training.batches import Batch, BatchReader
from pdp_export.training.checkpoints import Checkpoints
from pdp_export.training.evaluation import evaluate
from pdp_export.training.interruption import InterruptGuard
from pdp_export.training.learner import Learner, Plan
from pdp_export.training.packing import pack
from pdp_export.training.randomness import RandomState, seed_epoch
from pdp_export.training.records import EpochRecord, Loaders, Progress
from pdp_export.training.state import RunState, take


@dataclass
class Run:
    """A run in progress. `whole` is False in the middle of an update, when nothing may be saved."""

    learner: Learner
    loaders: Loaders
    checkpoints: Checkpoints
    reader: BatchReader
    state: RunState
    guard: InterruptGuard = field(default_factory=InterruptGuard)
    whole: bool = True
    dirty: bool = False

    @property
    def plan(self) -> Plan:
        """What was asked for."""
        return self.learner.plan

    def finish(self) -> None:
        """Train the epochs that are left, and leave in the model what the run is for.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after a checkpoint was saved (with one process).
        """
        with self.guard.installed():
            try:
                while self.state.epoch < self.plan.epochs:
                    self._epoch()
            except KeyboardInterrupt:
                # Several processes are stopped at different steps: they go on from the checkpoint before.
                if self.whole and self.dirty and self.learner.crew.alone:
                    self._save()
                raise
        self.learner.hand_over()

    def _epoch(self) -> None:
        state, started = self.state, time.perf_counter()
        spent, saved = state.seconds, state.step
        every = self.plan.settings.checkpoint_every_steps
        self.learner.wrapped.train()
        for batch in self._batches_left():
            self.guard.hold()
            loss = self._learn(batch)
            state.seconds = spent + time.perf_counter() - started
            if self.whole:
                self.guard.release()
            self._tell(loss)
            if every and self.whole and state.step // every > saved // every:
                self._save()
                saved = state.step
        metric = self._validate()
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

    def _learn(self, batch: Batch) -> float:
        """Learn from one batch; the run is whole again when the optimizer has stepped."""
        self.whole = False
        state = self.state
        place, size = self.plan.group(state.step)
        loss = self.learner.learn(batch, state.step)
        state.step += 1
        state.consumed += 1
        state.loss_sum += loss
        state.random = RandomState.snapshot()
        self.dirty = True
        self.whole = place == size - 1
        return loss

    def _validate(self) -> float:
        """Measure in process 0, and tell the others."""
        learner, metric = self.learner, 0.0
        if learner.trained.average is not None:
            self._save()  # Ctrl-C may find the average half swapped in, which must not be saved
        if learner.crew.leads:
            with learner.averaged():
                metric = evaluate(
                    learner.local,
                    self.loaders.validation,
                    learner.objective,
                    input_names=self.reader.names,
                    dynamic=self.reader.dynamic,
                )
        return float(learner.crew.share_value(metric))

    def _close_epoch(self, metric: float, seconds: float) -> None:
        """Tell the pruner and record the epoch: all of it or nothing, since a resumed run validates again."""
        state, pruner = self.state, self.learner.trained.pruner
        with self.guard.held():
            if pruner is not None:
                pruner.validated(metric)
            state.history.append(self._record(metric, seconds))
            if pruner is not None and not self.learner.crew.alone:
                masks = pruner.state_dict()
                self.learner.crew.agree(pack(masks["tensors"], masks["meta"]), "the masks")
            state.epoch, state.consumed, state.loss_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0
            self.dirty = True
            self._save()

    def _record(self, metric: float, seconds: float) -> EpochRecord:
        state, pruner = self.state, self.learner.trained.pruner
        return EpochRecord(
            epoch=state.epoch + 1,
            loss=state.loss_sum / self.plan.steps,
            metric=metric,
            lr=self.plan.rate(state.step - 1),
            seconds=seconds,
            sparsity=None if pruner is None else pruner.sparsity,
            layers=() if pruner is None else tuple(pruner.statistics()),
        )

    def _save(self) -> None:
        crew = self.learner.crew
        own = b"" if crew.alone else self.state.random.to_bytes()
        others = crew.gather(own)[1:]
        if crew.leads:
            self.checkpoints.save(self.state.step, take(self.state, self.learner.trained, others))
        self.dirty = False

    def _tell(self, loss: float) -> None:
        if not self.learner.crew.leads:
            return
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
