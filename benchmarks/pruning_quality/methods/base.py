"""What the loop asks of a method, and what a method is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.pruning_quality.tasks import Task


class NotInstalledError(Exception):
    """An outside tool is not there; the text names the package."""


@dataclass(frozen=True)
class Setting:
    """The order that a method gets.

    `pattern` is "unstructured", "N:M" or "channel"; `sparsity` the share of weights (or channels)
    to remove; `options` hold the method's own hyper-parameters; `steps` counts the optimizer steps of
    the whole run, the dense phase included.
    """

    task: Task
    pattern: str
    sparsity: float
    options: Mapping[str, Any]
    steps: int

    @property
    def kept_of(self) -> tuple[int, int]:
        """Return (n, m) of an N:M pattern."""
        kept, _, group = self.pattern.partition(":")
        return int(kept), int(group)


class Attached:
    """A method at work on one model; the calls come in the order groups, (gradients, step)*, finish."""

    def groups(self) -> list[dict[str, Any]]:
        """Return optimizer groups of parameters that the method adds."""
        return []

    def gradients(self) -> None:
        """Change gradients between backward pass and optimizer step."""

    def step(self, progress: float, optimizer: torch.optim.Optimizer) -> bool:
        """Move on after an optimizer step; tell whether the model's parameters were replaced."""
        del progress, optimizer
        return False

    def finish(self) -> None:
        """Write exact zeros (or cut channels) and leave an ordinary module behind."""


class Dense(Attached):
    """No pruning: the reference."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        del model, setting


class Fixed(nn.Module):
    """A parametrization that multiplies by a mask held fixed until it is set anew."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight; pruned weights get no gradient."""
        return weight * self.mask


def prunable(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the layers that every method prunes: all convolutions but the first and depthwise ones.

    The same layers as `pdp_export.Pruner` takes by default; the classifier stays dense too.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return {name: layer for name, layer in layers[1:] if not layer.groups == layer.in_channels > 1}


def original(layer: nn.Module) -> nn.Parameter:
    """Return the raw weight behind a parametrization."""
    return layer.get_parameter("parametrizations.weight.original")


def bake(layer: nn.Module) -> None:
    """Replace a parametrized weight by its present value, with +0.0 for every zero."""
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    with torch.no_grad():
        layer.get_parameter("weight").add_(0.0)


@torch.no_grad()
def magnitude_masks(weights: list[Tensor], sparsity: float) -> list[Tensor]:
    """Return float masks of the weights' shapes that keep the largest |w| of all layers together.

    The ranking, and the cap that keeps 2 % of each layer, are those of `pdp_export.Pruner`.
    """
    from pdp_export.pruning import Unstructured
    from pdp_export.pruning.allocation import Budget
    from pdp_export.pruning.threshold import keep_mask

    scores = [weight.detach().abs().flatten() for weight in weights]
    counts = Budget(Unstructured(sparsity), [len(score) for score in scores], 0.98).counts(scores)
    return [
        keep_mask(score, count).view_as(weight).to(weight.dtype)
        for score, count, weight in zip(scores, counts, weights, strict=True)
    ]


@torch.no_grad()
def group_mask(weight: Tensor, kept: int, group: int) -> Tensor:
    """Return the float mask that keeps the `kept` largest of each `group` neighbours along axis 1.

    `weight` has shape (C_out, C_in, ...) with C_in a multiple of `group`. Ties go to earlier channels.
    """
    moved = weight.detach().abs().movedim(1, -1)  # (C_out, ..., C_in)
    blocks = moved.reshape(-1, group)
    best = blocks.argsort(dim=1, descending=True, stable=True)[:, :kept]
    mask = torch.zeros_like(blocks).scatter_(1, best, 1.0)
    return mask.view_as(moved).movedim(-1, 1).contiguous()
