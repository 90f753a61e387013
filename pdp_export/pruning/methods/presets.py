"""The named methods with their constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from pdp_export.errors import UsageError, near_misses
from pdp_export.pruning.methods.base import Method
from pdp_export.pruning.methods.shrinking import HardMask, ShrinkingMask
from pdp_export.pruning.methods.sigmoid import RectifiedMask, SigmoidMask
from pdp_export.pruning.methods.temperature import Temperature

PresetName = Literal["default", "paper", "rectified", "gradual", "straight_through", "st3", "feather"]
Ramp = Literal["cubic", "linear"]
_UNUSED = Temperature(relative=True, start=1.0, end=1.0)  # thresholds without a temperature


@dataclass(frozen=True)
class Preset:
    """A method, its ramp, and the steps between two refreshes of its masks (None: by progress)."""

    method: Method
    ramp: Ramp
    refresh_every: int | None = None


def _rectified() -> Preset:
    return Preset(RectifiedMask(Temperature(relative=True, start=2.0, end=2.0)), "cubic")


_FIXED: dict[str, Callable[[], Preset]] = {
    "default": lambda: Preset(SigmoidMask(Temperature(relative=True, start=1.0, end=1e-3), gain=1.0), "cubic"),
    "rectified": _rectified,
    "gradual": lambda: Preset(HardMask(_UNUSED), "cubic"),
    "straight_through": lambda: Preset(HardMask(_UNUSED, revive=1.0), "cubic"),
    "st3": lambda: Preset(ShrinkingMask(_UNUSED, power=1), "cubic"),
    "feather": lambda: Preset(ShrinkingMask(_UNUSED, power=3), "cubic"),
}
PRESET_NAMES = ("paper", *_FIXED)


def preset(name: str, temperature: float = 1e-4) -> Preset:
    """Return method and ramp of a preset.

    ``default``: PDP with relative tau, kappa 1 -> 1e-3 by 95 % of the run, slope <= 1, cubic ramp; the
    mask is soft while the layer settles and hard long before it is deployed. ``paper``: the
    constant `temperature`, no clip, linear ramp, refreshed in every step, as published. ``rectified``:
    exact zeros during training, kappa 2, slope 1 everywhere; our extension. ``gradual``,
    ``straight_through``, ``st3`` and ``feather`` are the rivals, see `shrinking`.

    Raises:
        UsageError: for an unknown name or a temperature that is not positive.
    """
    if name == "paper":
        if not 0 < temperature <= torch.finfo(torch.float32).max:
            raise UsageError(
                f"temperature is {temperature}, it must be positive and fit in float32", where="temperature"
            )
        return Preset(SigmoidMask(Temperature(relative=False, start=temperature, end=temperature)), "linear", 1)
    if name not in _FIXED:
        raise UsageError(
            f"unknown preset {name!r}{near_misses(name, PRESET_NAMES)}",
            where="preset",
            hint=f"use one of: {', '.join(PRESET_NAMES)}",
        )
    return _FIXED[name]()
