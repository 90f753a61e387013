"""The sections of the recipe that the training loop reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pdp_export.errors import RecipeError, near_misses
from pdp_export.recipe_section import Count, Positive, Section


class TrainingSection(Section):
    """The training loop, for the dense reference and for pruning alike.

    `lr_warmup` is the share of the run in which the rate rises linearly from 0; `accumulate` batches make one
    optimizer step; with `ema` > 0 the moving average of the weights, with that decay, is what is measured and
    kept.
    """

    epochs: Annotated[int, Field(gt=0)] = 10
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="for cross_entropy only")
    lr_schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    lr_warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    accumulate: Annotated[int, Field(ge=1)] = Field(default=1, description="batches per optimizer step")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="0 = off; for example 0.999")
    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="0 = torch's own choice; 1 makes runs repeat bit for bit"
    )
    checkpoint_every_steps: Count = Field(default=200, description="0 = only at the end of each epoch")

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.lr_schedule == "one_cycle" and self.lr_warmup:
            raise ValueError(
                f"lr_warmup {self.lr_warmup} does not go with one_cycle, which rises by itself; leave it 0"
            )
        return self

    def check_loss(self, loss: str) -> None:
        """Raise RecipeError for label smoothing of a loss that is the user's own: only that loss could do it."""
        if self.label_smoothing and loss != "cross_entropy":
            raise RecipeError(
                f"training.label_smoothing is {self.label_smoothing}, and task.loss is {loss!r}",
                where="training.label_smoothing",
                hint="smooth the labels inside your loss and set it to 0, or use task.loss: cross_entropy",
            )


class DistillationSection(Section):
    """The dense reference as a teacher while pruning.

    The loss is ``(1 - weight) * task + weight * (T^2 KL(teacher || student) + hidden_weight * MSE)``, both
    distributions softened by the temperature T. `outputs` are the logits compared, by default the one that
    predictions are taken from; `hidden` are modules whose outputs are compared by their mean squared difference.
    """

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Positive = 2.0
    outputs: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    hidden_weight: Positive = 1.0

    def check_recipe(self, outputs: Sequence[str], epochs: int) -> None:
        """Raise RecipeError for an output that the recipe does not name, or where nothing is trained."""
        for name in self.outputs:
            if name not in outputs:
                raise RecipeError(
                    f"distillation.outputs names {name!r}{near_misses(name, outputs)}; "
                    f"the recipe's: {', '.join(outputs)}",
                    where="distillation.outputs",
                )
        if epochs == 0:
            raise RecipeError(
                "pruning.epochs is 0, so nothing is trained that could be distilled",
                where="distillation",
                hint="delete the section, or train",
            )
