"""The soft mask of PDP and its gradient, in float32 whatever the dtype of the weights.

With the threshold t and the temperature tau of a layer (units of w^2)::

    m(w)  = sigmoid((w^2 - t^2) / tau)        1/2 at |w| = t, rising with |w|
    w_hat = m(w) * w                          what the forward pass uses
    dw_hat/dw = m + (2 w^2 / tau) m (1 - m)   with t held constant (detached); never negative

At |w| = t the gradient is 1/2 + t^2 / (2 tau): for a small tau a per-weight learning rate of
hundreds that throws weights off the boundary. `gain` clips it.

Source: Cho, Adya, Naik, PDP (NeurIPS 2023, arXiv 2305.11203) for the mask; the detached threshold
and the clip are this package's choices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY = 1e-30  # floor of tau: t = 0 happens when a layer already holds more zeros than asked
_HUGE = 1e30  # keeps w^2 / tau finite, since inf * 0 would be NaN


def soft_mask(scores: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
    """Return ``sigmoid((s^2 - t^2) / tau)`` in float32, of the shape of `scores`."""
    return torch.sigmoid((scores.float().square() - threshold.square()) / tau)


def product_gradient(scores: Tensor, mask: Tensor, tau: Tensor, gain: float | None) -> Tensor:
    """Return ``d(s m)/ds = m + (2 s^2 / tau) m (1 - m)``, clipped from above at `gain`."""
    boost = (2 * scores.square() / tau).clamp(max=_HUGE)
    slope = torch.addcmul(mask, boost, mask * (1 - mask))
    return slope if gain is None else slope.clamp(max=gain)


class SoftProduct(torch.autograd.Function):
    """``w * m(w)`` element by element, with the clipped gradient; (any shape) -> (same shape)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor, tau: Tensor, gain: float | None) -> Tensor:
        """Return the softly masked weight in the weight's own dtype."""
        exact = weight.detach().float()
        mask = soft_mask(exact, threshold, tau)
        ctx.save_for_backward(exact, mask, tau)
        ctx.gain = gain
        return (exact * mask).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Multiply the incoming gradient by the clipped derivative."""
        (gradient,) = gradients
        exact, mask, tau = ctx.saved_tensors
        return gradient * product_gradient(exact, mask, tau, ctx.gain).to(gradient.dtype), None, None, None


def soft_product(weight: Tensor, threshold: Tensor, tau: Tensor, gain: float | None = None) -> Tensor:
    """Return ``w * sigmoid((w^2 - t^2) / tau)`` with the gradient clipped at `gain` (None: not clipped)."""
    return SoftProduct.apply(weight, threshold, tau, gain)  # type: ignore[no-any-return, no-untyped-call]
