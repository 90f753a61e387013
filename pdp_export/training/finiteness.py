"""Which layer went to NaN or Inf first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pdp_export.errors import TrainingStoppedError

UNKNOWN = "model"


def gradients_finite(model: nn.Module) -> bool:
    """Tell whether all gradients are finite, by their total norm."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return not gradients or bool(torch.nn.utils.get_total_norm(gradients).isfinite())


def diverged(step: int, message: str, where: str) -> TrainingStoppedError:
    """Return the error for what `blame` found at a step."""
    return TrainingStoppedError(
        f"training stopped at step {step}: {message}",
        where=where,
        hint="the last good checkpoint is kept; lower the learning rate, or check this layer's inputs",
    )


def blame(model: nn.Module, inputs: tuple[Tensor, ...], loss: Callable[[], Tensor]) -> tuple[str, str]:
    """Run the batch again and return what was not finite first, and where; `UNKNOWN` where nothing is found.

    Activations are looked at in the order of execution; if all are finite, gradients in the order
    of the backward pass, which is the reverse. The gradients that parameters hold stay as they are.
    """
    for index, value in enumerate(inputs):
        if not _finite(value):
            return f"input {index} of the batch holds NaN or Inf", "data.factory: train"
    order: list[str] = []
    with _watching(model, order) as bad:
        value = loss()
    if bad:
        return f"the activation of layer {bad[0]!r} is NaN or Inf", bad[0]
    if not _finite(value):
        return "the loss is NaN or Inf although every activation is finite", "task.loss"
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(value, trainable, allow_unused=True)
    bad_ones = {id(p) for p, g in zip(trainable, found, strict=True) if g is not None and not _finite(g)}
    for name in reversed(order):
        for key, parameter in model.get_submodule(name).named_parameters():
            if id(parameter) in bad_ones:
                return f"the gradient of layer {name!r} ({key}) is NaN or Inf", name
    return "a gradient was NaN or Inf, but not when the batch was run again", UNKNOWN


@contextmanager
def _watching(model: nn.Module, order: list[str]) -> Iterator[list[str]]:
    """Record leaf layers in the order of execution; yield the names whose output is not finite."""
    bad: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            order.append(name)
            if not all(_finite(leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)):
                bad.append(name)

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if name and _is_layer(module)]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()


def _is_layer(module: nn.Module) -> bool:
    return not [name for name, _ in module.named_children() if name != "parametrizations"]


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())
