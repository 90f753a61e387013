"""Pruning in a Hugging Face Trainer: masks on when it is built, moved every step, exact zeros at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from pdp_export.errors import MissingDependencyError, UsageError
from pdp_export.pruning.pruner import Pruner
from pdp_export.pruning.records import HardenReport
from pdp_export.pruning.state import load_pruner, save_pruner

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "transformers is not installed", where=__name__, hint="pip install 'pdp-export[nlp]'"
    ) from error


class HuggingFacePruning(TrainerCallback):
    """Prunes the model that a Trainer trains.

    ::

        pruning = HuggingFacePruning(lambda model: Pruner(model, Unstructured(0.9)))
        Trainer(model, arguments, train_dataset=data, callbacks=[pruning]).train()
        pruning.report.sparsity

    Give it to the Trainer's constructor: masks must be on before a checkpoint is loaded. Every
    checkpoint folder gets ``pruner.safetensors`` and ``pruner.json``, and training that is resumed
    from it gives the weights of an uninterrupted run. Checkpoints of a running training hold soft
    weights; ``save_model()`` after it writes exact zeros under the model's ordinary names. With
    ``load_best_model_at_end`` the state of the best checkpoint is hardened.

    Args:
        pruner: A Pruner over the model or a part of it, or a function that builds it.
        harden: Write the zeros when training ends. Otherwise call ``pruner.harden()`` yourself.
        checkpoint: The folder given to ``train(resume_from_checkpoint=...)`` when it is neither in the
            arguments nor in their output directory.

    Attributes:
        report: What hardening wrote, None before.
    """

    def __init__(
        self, pruner: Pruner | Callable[[Any], Pruner], *, harden: bool = True, checkpoint: str | Path | None = None
    ) -> None:
        self._source, self._pruner = pruner, pruner if isinstance(pruner, Pruner) else None
        self.harden, self.checkpoint = harden, checkpoint
        self.report: HardenReport | None = None

    @property
    def pruner(self) -> Pruner:
        """The Pruner; where a function builds it, there is none before the Trainer exists.

        Raises:
            UsageError: when it is not built yet.
        """
        if self._pruner is None:
            raise UsageError("the Pruner is built with the Trainer", where="HuggingFacePruning.pruner")
        return self._pruner

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Attach the masks to the Trainer's model."""
        del args, state, control
        self._attach(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach to a model that `model_init` made just now, and restore the state when training is resumed.

        Raises:
            FileError: when the checkpoint lacks the pruner's state, or weights were loaded before the masks were on.
            UsageError: when the Pruner belongs to another model.
        """
        del control
        self._attach(kwargs["model"])
        if state.global_step > 0:
            load_pruner(self.pruner, self._resumed_from(args, state))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the masks on; the Trainer calls this once per optimizer step."""
        del args, control, kwargs
        self.pruner.step(state.global_step / state.max_steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the pruner's state into the checkpoint; trials of a hyperparameter search get none."""
        del control, kwargs
        if args.should_save and not state.is_hyper_param_search:
            save_pruner(self.pruner, _checkpoint(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the exact zeros."""
        del control, kwargs
        if not self.harden or self.report:
            return
        if args.load_best_model_at_end and state.best_model_checkpoint:
            load_pruner(self.pruner, Path(state.best_model_checkpoint))
        self.report = self.pruner.harden()

    def _attach(self, model: nn.Module) -> None:
        if self._pruner is None or all(module is not self._pruner.model for module in model.modules()):
            if isinstance(self._source, Pruner):
                raise UsageError(
                    "the Pruner prunes another model than the Trainer trains",
                    where="HuggingFacePruning",
                    hint="pass a function that builds the Pruner from the model",
                )
            self._pruner = self._source(model)
        _declare_tied(self._pruner)

    def _resumed_from(self, args: TrainingArguments, state: TrainerState) -> Path:
        named = self.checkpoint or args.resume_from_checkpoint
        return Path(named) if named else _checkpoint(args, state)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _declare_tied(pruner: Pruner) -> None:
    """Tell transformers which masked weights are second names of others; it refuses to save tied ones otherwise."""
    for mask in pruner.masks:
        seen: set[int] = set()
        for place in mask.places:
            if id(place.parameter) in seen:
                masked = place.module.get_submodule(f"parametrizations.{place.attribute}")
                masked._tied_weights_keys = {"original": ""}  # type: ignore[assignment]  # read by save_pretrained
            seen.add(id(place.parameter))
