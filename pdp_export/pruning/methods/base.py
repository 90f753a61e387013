"""What every pruning method answers: the gate in the forward pass, its slope in the backward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pdp_export.pruning.methods.temperature import Temperature


@dataclass(frozen=True)
class Method(ABC):
    """``w_hat = w * gate(w)`` in the forward pass; the backward pass multiplies by a slope.

    Everything is float32. `values` are single weights (signed) or the scores of groups (not
    negative), in any shape; `threshold` t and `tau` broadcast against it and carry no gradient.

    Attributes:
        temperature: How tau follows from t and the progress of the run.
        from_smallest: Groups measure their scores from the smallest one, because the gate depends
            on the ratio s / t and norms of filters differ by a few per cent only.
    """

    temperature: Temperature
    from_smallest = False

    @abstractmethod
    def gate(self, values: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return the factor of each value, of the shape of `values`."""

    @abstractmethod
    def slope(self, values: Tensor, gate: Tensor, threshold: Tensor, tau: Tensor) -> Tensor | None:
        """Return what the gradient of a single weight is multiplied by; None where it is 1 everywhere."""

    def group_slope(self, gate: Tensor) -> Tensor | None:
        """Return what the gradients of a group's weights are multiplied by: by default its gate."""
        return gate

    def boundary_gain(self, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return the slope at |w| = t before any clip: a per-weight learning rate."""
        del tau
        return torch.ones_like(threshold)

    @property
    def clip(self) -> float | None:
        """The limit of the slope, None where there is none."""
        return None

    @property
    def has_gap(self) -> bool:
        """Tell whether pruned weights still take part in the soft network."""
        return False

    @property
    def differentiates_groups(self) -> bool:
        """Tell whether autograd runs through the gate of a group."""
        return False


class MaskedProduct(torch.autograd.Function):
    """``w * gate``; the backward pass multiplies by a slope that need not be the gate's derivative."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gate: Tensor, slope: Tensor | None, straight: bool) -> Tensor:
        """Return the masked weight in its own dtype; without a `slope` it is the gate, or 1 if `straight`."""
        ctx.straight = straight
        if not straight:
            ctx.save_for_backward(gate if slope is None else slope)
        return (weight.detach() * gate).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Multiply the incoming gradient by the slope."""
        (gradient,) = gradients
        if ctx.straight:
            return gradient, None, None, None
        (slope,) = ctx.saved_tensors
        return (gradient * slope).to(gradient.dtype), None, None, None


def masked_product(weight: Tensor, gate: Tensor, slope: Tensor | None) -> Tensor:
    """Return ``w * gate``, its gradient multiplied by `slope` (None: 1); both broadcast against the weight."""
    other = None if slope is gate else slope  # torch.compile refuses the same tensor twice
    return MaskedProduct.apply(weight, gate, other, slope is None)  # type: ignore[no-any-return, no-untyped-call]
