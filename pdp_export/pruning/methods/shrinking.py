"""The rivals: hard and shrinking thresholds with straight-through or masked gradients.

Sources: gradual magnitude pruning, Zhu & Gupta 2017 (arXiv 1710.01878); ST-3, Vanderschueren & De
Vleeschouwer (WACV 2023, arXiv 2212.01076); Feather, Glentis Georgoulakis
et al. (BMVC 2023, arXiv 2310.02448).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdp_export.pruning.methods.base import Method

_SCALE, _LEAST = 1.01, 0.01  # bounds the scale of an output channel at 101


@dataclass(frozen=True)
class HardMask(Method):
    """``w_hat = w`` where |w| > t, else 0.

    `revive` is the slope of pruned weights: 0 for gradual magnitude pruning, where they only come
    back when the threshold reaches them, 1 for the straight-through estimator.
    """

    revive: float = 0.0

    def gate(self, values: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return 0 or 1."""
        del tau
        return (values.abs() > threshold).float()

    def slope(self, values: Tensor, gate: Tensor, threshold: Tensor, tau: Tensor) -> Tensor | None:
        """Return 1 for kept and `revive` for pruned weights."""
        del values, threshold, tau
        return self.group_slope(gate)

    def group_slope(self, gate: Tensor) -> Tensor | None:
        """Return 1 for kept and `revive` for pruned groups."""
        if self.revive == 1:
            return None
        return gate if self.revive == 0 else gate.clamp(min=self.revive)


@dataclass(frozen=True)
class ShrinkingMask(Method):
    """``w_hat = sign(w) (|w|^p - t^p)^(1/p)`` where |w| > t, else 0: continuous at t.

    p = 1 is soft thresholding (ST-3), p = 3 Feather's. The slope is 1 for kept weights and
    `revive` for pruned ones. With `rescale` each output channel is multiplied by
    ``1.01 / (ratio + 0.01)``, the ratio being its share of |w| that is kept (ST-3); the factor is
    constant in the backward pass and folded into the weights on hardening.
    """

    power: float = 1.0
    revive: float = 1.0
    rescale: bool = False
    from_smallest = True

    def gate(self, values: Tensor, threshold: Tensor, tau: Tensor) -> Tensor:
        """Return w_hat / w: not negative, above 1 only where rescaled."""
        del tau
        size = values.abs()
        ratio = (threshold / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp_(max=1)
        gate = 1 - ratio if self.power == 1 else (1 - ratio**self.power) ** (1 / self.power)
        return gate * self._scale(size, gate) if self.rescale and values.dim() > 1 else gate

    def slope(self, values: Tensor, gate: Tensor, threshold: Tensor, tau: Tensor) -> Tensor | None:
        """Return 1 for kept and `revive` for pruned weights."""
        del values, threshold, tau
        return self.group_slope(gate)

    def group_slope(self, gate: Tensor) -> Tensor | None:
        """Return 1 for kept and `revive` for pruned groups."""
        return None if self.revive == 1 else (gate > 0).float().clamp_(min=self.revive)

    @staticmethod
    def _scale(size: Tensor, gate: Tensor) -> Tensor:
        """Return the factor of each output channel, (C_out, 1, ...)."""
        axes = tuple(range(1, size.dim()))
        kept = (size * (gate > 0)).mean(axes, keepdim=True) + 1e-6
        return _SCALE / (kept / (size.mean(axes, keepdim=True) + 1e-6) + _LEAST)
