"""Pruning in a Lightning Trainer: masks on at setup, moved after every optimizer step, exact zeros at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pdp_export.errors import MissingDependencyError, UsageError
from pdp_export.pruning.pruner import Pruner
from pdp_export.pruning.records import HardenReport
from pdp_export.pruning.state import full_state, restore_full_state

try:
    from pytorch_lightning import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "pytorch-lightning is not installed", where=__name__, hint="pip install 'pdp-export[lightning]'"
    ) from error


class LightningPruning(Callback):
    """Prunes the module that a Trainer fits.

    ::

        pruning = LightningPruning(lambda module: Pruner(module.net, Unstructured(0.9)))
        Trainer(max_epochs=10, callbacks=[pruning]).fit(module, batches)
        pruning.report.sparsity

    Progress is counted in optimizer steps, so gradient accumulation changes nothing. The state
    travels in Lightning's own checkpoints as plain tensors and JSON values, and training that is
    resumed from one gives the weights of an uninterrupted run. Checkpoints of a running fit hold
    soft weights; what is written after the fit holds exact zeros.

    Args:
        pruner: A Pruner over the module or a part of it, or a function that builds it when fit starts.
        total_steps: Optimizer steps of the whole run; by default what Lightning estimates.
        harden: Write the zeros when the fit ends. Otherwise call ``pruner.harden()`` yourself.

    Attributes:
        report: What hardening wrote, None before.
    """

    def __init__(
        self,
        pruner: Pruner | Callable[[Any], Pruner],
        *,
        total_steps: int | None = None,
        harden: bool = True,
    ) -> None:
        self._source, self._pruner = pruner, pruner if isinstance(pruner, Pruner) else None
        self.total_steps, self.harden = total_steps, harden
        self.report: HardenReport | None = None
        self._stepped = 0

    @property
    def pruner(self) -> Pruner:
        """The Pruner; where a function builds it, there is none before the fit starts.

        Raises:
            UsageError: when it is not built yet.
        """
        if self._pruner is None:
            raise UsageError("the Pruner is built when the fit starts", where="LightningPruning.pruner")
        return self._pruner

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the masks, before Lightning loads a checkpoint, builds optimizers and wraps the module."""
        del trainer
        if stage == "fit" and self._pruner is None and not isinstance(self._source, Pruner):
            self._pruner = self._source(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out how long the run is.

        Raises:
            UsageError: when neither Lightning nor `total_steps` tells.
        """
        if self.total_steps is None:
            self.total_steps = _estimated_steps(trainer, pl_module)
        self._stepped = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the masks on when this batch ended with an optimizer step."""
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step == self._stepped:
            return
        self._stepped = trainer.global_step
        self.pruner.step(trainer.global_step / (self.total_steps or 1))
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning from outside the class
        if interval and trainer.global_step % interval == 0:
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the exact zeros."""
        del trainer, pl_module
        if self.harden and self.report is None:
            self.report = self.pruner.harden()

    def state_dict(self) -> dict[str, Any]:
        """Return the pruner's state for Lightning's checkpoint; nothing is left of it after hardening."""
        return {} if self._pruner is None or self.report else full_state(self._pruner)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; Lightning has loaded the module's weights before.

        Raises:
            FileError: for the state of another pruner or of other weights.
        """
        restore_full_state(self.pruner, state_dict, "Lightning checkpoint")

    def _log(self, trainer: Trainer) -> None:
        figures = {"pruning/sparsity": self.pruner.sparsity}
        for row in self.pruner.statistics() if trainer.loggers else ():
            values = row.model_dump()
            figures |= {f"pruning/{row.name}/{key}": value for key, value in values.items() if type(value) is float}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step - 1)  # Lightning counts logged steps from 0


def _estimated_steps(trainer: Trainer, module: LightningModule) -> int:
    total = trainer.estimated_stepping_batches if module.automatic_optimization else math.inf
    if not 0 < total < math.inf:
        raise UsageError(
            "Lightning cannot tell how many optimizer steps this run has",
            where="LightningPruning",
            hint="pass LightningPruning(total_steps=...), or Trainer(max_steps=...) with automatic optimization",
        )
    return int(total)
