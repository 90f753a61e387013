"""What every pruning method answers: the gate in the forward pass, its slope in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pdp_export.pruning.methods.temperature import Temperature


@dataclass(frozen=True)
class Method:
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

    def gate(self, values: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return the factor of each value, of the shape of `values`."""
        raise NotImplementedError

    def slope(self, values: Tensor, gate: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return what the gradient of a single weight is multiplied by; may overwrite `gate`."""
        raise NotImplementedError

    def group_slope(self, gate: Tensor) -> Tensor:
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


class GatedProduct(torch.autograd.Function):
    """``w * gate(w)`` element by element; (any shape) -> (same shape)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor, tau: Tensor, method: Method) -> Tensor:
        """Return the gated weight in the weight's own dtype."""
        exact = weight.detach().float()
        gate = method.gate(exact, threshold, tau)
        ctx.save_for_backward(exact, gate, threshold, tau)
        ctx.method = method
        return (exact * gate).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Multiply the incoming gradient by the method's slope."""
        (gradient,) = gradients
        exact, gate, threshold, tau = ctx.saved_tensors
        slope = ctx.method.slope(exact, gate, threshold, tau)
        return gradient * slope.to(gradient.dtype), None, None, None


class GroupProduct(torch.autograd.Function):
    """``w * gate`` with a gate per group that is constant in the backward pass."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gate: Tensor, slope: Tensor | None) -> Tensor:
        """Return the gated weight in its own dtype; `gate` and `slope` (None: the gate) broadcast against it."""
        ctx.save_for_backward(gate if slope is None else slope)
        return weight.detach() * gate.to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Multiply the incoming gradient by the slope."""
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope.to(gradients[0].dtype), None, None


def gated_product(weight: Tensor, threshold: Tensor, tau: Tensor, method: Method) -> Tensor:
    """Return ``w * gate(w)``, differentiable by the method's slope."""
    return GatedProduct.apply(weight, threshold, tau, method)  # type: ignore[no-any-return, no-untyped-call]


def group_product(weight: Tensor, gate: Tensor, slope: Tensor) -> Tensor:
    """Return ``w * gate``, its gradient multiplied by `slope`."""
    other = None if slope is gate else slope  # torch.compile refuses the same tensor twice
    return GroupProduct.apply(weight, gate, other)  # type: ignore[no-any-return, no-untyped-call]
