"""The temperature tau, in units of w^2, as a function of threshold and progress."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

TINY = 1e-30  # floor of tau: t = 0 happens when a layer already holds more zeros than asked


@dataclass(frozen=True)
class Temperature:
    """How soft the mask is.

    Relative: tau = kappa * scale, where the scale is t^2 for single weights and a tenth of the
    standard deviation of the squared scores for groups, so that a layer's size does not matter;
    kappa falls geometrically from `start` to `end` between the end of warm-up and `until`.
    Otherwise tau = `start`, constant.
    """

    relative: bool
    start: float
    end: float
    until: float = 0.95

    def kappa(self, progress: float, warmup: float) -> float:
        """Return kappa (or the constant tau) at this progress."""
        along = min(1.0, max(0.0, (progress - warmup) / max(self.until - warmup, 1e-9)))
        return math.exp(math.log(self.start) * (1 - along) + math.log(self.end) * along)

    def tau(self, scale: Tensor, kappa: float) -> Tensor:
        """Return tau in float32 and in the shape of `scale`, never below a tiny floor."""
        tau = kappa * scale if self.relative else scale.new_full(scale.shape, kappa)
        return tau.clamp(min=TINY)
