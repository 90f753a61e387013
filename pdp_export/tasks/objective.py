"""What is optimised and what is measured: loss, per-sample score, predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pdp_export.errors import RecipeError, near_misses
from pdp_export.tasks.references import call, resolve

if TYPE_CHECKING:
    from pdp_export.recipe import Recipe


def cross_entropy(output: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of logits ``(N, classes, ...)`` and class indices ``(N, ...)``.

    `smoothing` is the share of the target that is spread evenly over all classes (Szegedy et al. 2016,
    arXiv 1512.00567, section 7).
    """
    return F.cross_entropy(output, target, label_smoothing=smoothing)


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 or 0 per sample: is the largest logit the target? ``(N, classes) -> (N,)``."""
    return (output.argmax(dim=1) == target).float()


LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy}
METRICS: dict[str, Callable[..., Tensor]] = {"accuracy": accuracy}


@dataclass(frozen=True)
class Objective:
    """Loss and metric of one task.

    Built-in functions see only the chosen output; a user's own ``module:function`` sees the model's
    whole output as it is. `classifies` is true when predictions are class indices.
    """

    loss_function: Callable[..., Tensor]
    metric_function: Callable[..., Tensor]
    output: str
    outputs: tuple[str, ...]
    loss_sees_all: bool = False
    metric_sees_all: bool = False
    classifies: bool = True

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """Return the scalar loss of a batch.

        Raises:
            RecipeError: when the function fails, or returns something else than one number.
        """
        seen = outputs if self.loss_sees_all else self.select(outputs)
        loss = call(self.loss_function, {}, "task.loss", seen, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise RecipeError(f"task.loss returned {_kind(loss)}, not one number per batch", where="task.loss")
        return loss

    def scores(self, outputs: Any, target: Any) -> Tensor:
        """Return the score of every sample ``(N,)``, higher is better.

        Raises:
            RecipeError: when the function fails, or returns something else than one score per sample.
        """
        seen = outputs if self.metric_sees_all else self.select(outputs)
        scores = call(self.metric_function, {}, "task.metric", seen, target)
        if not isinstance(scores, Tensor) or scores.dim() != 1:
            raise RecipeError(
                f"task.metric returned {_kind(scores)}, not one score per sample (N,)", where="task.metric"
            )
        return scores

    def predictions(self, outputs: Any) -> Tensor:
        """Return the predicted class of every sample ``(N,)`` from the chosen output."""
        return self.select(outputs).argmax(dim=1)

    def select(self, outputs: Any) -> Tensor:
        """Return the chosen output of a model that may return a tensor, a tuple or a dict."""
        return named_outputs(outputs, self.outputs)[self.output]


def named_outputs(outputs: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Give a model's outputs the recipe's names, in order.

    Raises:
        RecipeError: when the counts differ or an output is no tensor.
    """
    if isinstance(outputs, Mapping):
        _check_keys(list(outputs), names)
        tensors = list(outputs.values())
    else:
        tensors = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    if len(tensors) != len(names) or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
        raise RecipeError(
            f"the model returns {len(tensors)} outputs ({kinds}), the recipe names {len(names)} ({', '.join(names)})",
            where="outputs",
            hint="name every tensor the model returns, in order",
        )
    return dict(zip(names, tensors, strict=True))


def _check_keys(keys: Sequence[str], names: Sequence[str]) -> None:
    """Refuse names that are the model's own, in another order: every file would swap two outputs."""
    if set(keys) == set(names) and list(keys) != list(names):
        raise RecipeError(
            f"the model returns the keys {', '.join(keys)}, the recipe names them {', '.join(names)}",
            where="outputs",
            hint=f"write outputs: [{', '.join(keys)}]",
        )


def _kind(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def build_objective(recipe: Recipe) -> Objective:
    """Return the objective that the recipe asks for.

    Raises:
        RecipeError: for an unknown built-in name, with near misses.
    """
    loss, loss_own = _function(recipe.task.loss, LOSSES, "task.loss", recipe)
    if recipe.training.label_smoothing:  # the recipe allows it with the built-in cross-entropy only
        loss = partial(loss, smoothing=recipe.training.label_smoothing)
    metric, metric_own = _function(recipe.task.metric, METRICS, "task.metric", recipe)
    return Objective(
        loss_function=loss,
        metric_function=metric,
        output=recipe.task.output or recipe.outputs[0],
        outputs=recipe.outputs,
        loss_sees_all=loss_own,
        metric_sees_all=metric_own,
        classifies=recipe.task.metric == "accuracy",
    )


def _function(
    name: str, known: Mapping[str, Callable[..., Tensor]], key: str, recipe: Recipe
) -> tuple[Callable[..., Tensor], bool]:
    if name in known:
        return known[name], False
    if ":" in name:
        return resolve(name, recipe.folder, key), True
    raise RecipeError(
        f"{key} is {name!r}{near_misses(name, known)}; allowed: {', '.join(known)}, or module:function", where=key
    )


def example_inputs(recipe: Recipe, batch: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
    """Return random inputs of the recipe's shapes; `batch` replaces axis 0 of every input.

    Integer inputs are zeros and ones, which every embedding accepts.
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for item in recipe.inputs:
        shape = (batch, *item.shape[1:]) if batch is not None else item.shape
        if item.dtype == "float32":
            made.append(torch.randn(shape, generator=generator))
        else:
            made.append(torch.randint(0, 2, shape, generator=generator, dtype=getattr(torch, item.dtype)))
    return tuple(made)
