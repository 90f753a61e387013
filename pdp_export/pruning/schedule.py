"""When: the pruned share and the temperature as functions of progress, from 0 to 1 over the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pdp_export.errors import UsageError, near_misses
from pdp_export.pruning.soft_mask import TINY

Ramp = Literal["cubic", "linear"]


@dataclass(frozen=True)
class Schedule:
    """How the ratio rises: nothing until `warmup`, the full ratio from `ramp_end` on.

    Both are shares of the run. With u = (progress - warmup) / (ramp_end - warmup) the share of the
    final ratio is ``u`` (linear, PDP) or ``1 - (1 - u)^3`` (cubic; Zhu & Gupta 2017,
    arXiv 1710.01878, equation 1). `steps` is the length of the run in calls of
    ``Pruner.step()``; it is only needed where step() is called without a progress.
    """

    warmup: float = 0.1
    ramp_end: float = 0.75
    ramp: Ramp = "cubic"
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.ramp_end <= 1:
            raise UsageError(
                f"warmup {self.warmup} and ramp_end {self.ramp_end} must satisfy 0 <= warmup < ramp_end <= 1",
                where="Schedule",
            )
        if self.ramp not in ("cubic", "linear"):
            raise UsageError(f"unknown ramp {self.ramp!r}", where="Schedule", hint="use one of: cubic, linear")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps is {self.steps}, it must be at least 1", where="Schedule")

    def share(self, progress: float) -> float:
        """Return the share of the final ratio, 0..1."""
        along = min(1.0, max(0.0, (progress - self.warmup) / (self.ramp_end - self.warmup)))
        return along if self.ramp == "linear" else 1 - (1 - along) ** 3


@dataclass(frozen=True)
class Temperature:
    """The temperature tau, and the clip of the gradient that goes with it.

    Relative: tau = kappa * scale, where the scale is t^2 for weights and a tenth of the standard
    deviation of the squared scores for channels, so that a layer's size does not matter; kappa falls
    geometrically from `start` to `end` between the end of warm-up and `until`. Otherwise
    tau = `start`, constant.
    """

    relative: bool
    start: float
    end: float
    until: float = 0.95
    gain: float | None = None

    def kappa(self, progress: float, warmup: float) -> float:
        """Return kappa (or the constant tau) at this progress."""
        along = min(1.0, max(0.0, (progress - warmup) / max(self.until - warmup, 1e-9)))
        return math.exp(math.log(self.start) * (1 - along) + math.log(self.end) * along)

    def tau(self, scale: Tensor, kappa: float) -> Tensor:
        """Return tau as a float32 scalar, never below a tiny floor; `scale` is in units of w^2."""
        tau = kappa * scale if self.relative else scale.new_full((), kappa)
        return tau.clamp(min=TINY)


def preset(name: str, temperature: float) -> tuple[Temperature, Ramp]:
    """Return temperature and ramp of a preset.

    ``default``: relative, kappa 1 -> 1e-3 by 95 % of the run, gradient gain <= 1, cubic ramp; the
    mask is soft while the layer settles and hard long before it is deployed. ``paper``: the
    constant `temperature`, no clip, linear ramp, as published.

    Raises:
        UsageError: for an unknown name or a temperature that is not positive.
    """
    if name == "default":
        return Temperature(relative=True, start=1.0, end=1e-3, gain=1.0), "cubic"
    if name == "paper":
        if not 0 < temperature < math.inf:
            raise UsageError(f"temperature is {temperature}, it must be positive", where="temperature")
        return Temperature(relative=False, start=temperature, end=temperature), "linear"
    raise UsageError(
        f"unknown preset {name!r}{near_misses(name, ('default', 'paper'))}",
        where="preset",
        hint="use one of: default, paper",
    )
