"""PDP: the sigmoid mask of the paper, and its rectified form that ends in exact zeros.

Source: Cho, Adya, Naik, PDP (NeurIPS 2023, arXiv 2305.11203) for the mask; the detached threshold,
the relative temperature, the clip and the rectified form are this package's choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdp_export.pruning.methods.base import Method


def soft_mask(values: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
    """Return ``m = sigmoid((w^2 - t^2) / tau)``: 1/2 at |w| = t, rising with |w|."""
    return torch.addcmul(-threshold.square(), values, values).div_(tau).sigmoid_()


def product_slope(values: Tensor, mask: Tensor, tau: Tensor, clip: float | None) -> Tensor:
    """Return ``d(w m)/dw = m + (2 w^2 / tau) m (1 - m)`` with t held constant, at most `clip`.

    Never negative; 1/2 + t^2 / (2 tau) at |w| = t. The order w^2 (1 - m) / tau stays finite where
    tau vanishes: m is 1 there. Few passes over the weights, because each costs as much as a step of SGD.
    """
    square = values.square()
    square = torch.addcmul(square, square, mask, value=-1).div_(tau)
    slope = torch.addcmul(mask, mask, square, value=2)
    return slope if clip is None else slope.clamp_(max=clip)


@dataclass(frozen=True)
class SigmoidMask(Method):
    """The mask of PDP, ``w_hat = w * sigmoid((w^2 - t^2) / tau)``.

    `gain` clips the slope: for a small tau the boundary gain is a per-weight learning rate of
    hundreds that throws weights off the boundary. Without a clip (preset "paper") autograd also
    runs through the gates of groups; with one, a group's gate is constant in the backward pass.
    """

    gain: float | None = None

    def gate(self, values: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return m, 0..1."""
        return soft_mask(values, threshold, tau)

    def slope(self, values: Tensor, gate: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return the derivative of w * m, clipped (and then in bfloat16: it is a rate, and takes half the memory)."""
        del threshold
        slope = product_slope(values, gate, tau, self.gain)
        return slope if self.gain is None else slope.bfloat16()

    def boundary_gain(self, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return 1/2 + t^2 / (2 tau)."""
        return 0.5 + threshold.square() / tau / 2

    @property
    def clip(self) -> float | None:
        """The limit of the slope."""
        return self.gain

    @property
    def has_gap(self) -> bool:
        """Yes: m is never exactly 0."""
        return True

    @property
    def differentiates_groups(self) -> bool:
        """Only as published, without a clip."""
        return self.gain is None


@dataclass(frozen=True)
class RectifiedMask(Method):
    """Our extension: ``w_hat = w * max(0, 2m - 1) = w * max(0, tanh((w^2 - t^2) / (2 tau)))``.

    Exactly zero at |w| <= t and continuous there, so the soft network is the deployed one. The
    slope is 1 everywhere (straight-through), or with `backward` that of PDP at tau = `backward` * t^2:
    either way pruned weights keep learning.
    """

    backward: float | None = None
    from_smallest = True

    def gate(self, values: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return max(0, 2m - 1), 0..1."""
        return torch.addcmul(-threshold.square(), values, values).div_(2 * tau).tanh_().clamp_(min=0)

    def slope(self, values: Tensor, gate: Tensor, threshold: Tensor, tau: Tensor) -> Tensor | None:
        """Return PDP's derivative at the backward temperature."""
        del gate
        if self.backward is None:
            return None
        tau = self.temperature.tau(threshold.square(), self.backward)
        return product_slope(values, soft_mask(values, threshold, tau), tau, None).bfloat16()

    def group_slope(self, gate: Tensor) -> Tensor | None:
        """Return None: dead groups keep learning."""
        del gate
        return None
