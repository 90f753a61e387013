"""The presets of `pdp_export.Pruner`: PDP, and the rivals that it offers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.pruning_quality.methods.base import Attached, Setting
from pdp_export.pruning import Pruner, Schedule, methods
from pdp_export.pruning.methods import preset as named_preset
from pdp_export.pruning.methods.shrinking import ShrinkingMask
from pdp_export.pruning.methods.sigmoid import RectifiedMask
from pdp_export.pruning.methods.temperature import Temperature


class Preset(Attached):
    """One preset.

    Its own options are `ramp_end`, `ramp`, `rescale` (of ST-3) and `slope` ("pdp": rectified with kappa 4 and PDP's
    slope, as it was before); all others go to the Pruner.
    """

    def __init__(self, model: nn.Module, setting: Setting, preset: str) -> None:
        options = dict(setting.options)
        temperature = options.pop("temperature", 1e-4)
        chosen = _changed(named_preset(preset, temperature), options)
        ramp = options.pop("ramp", chosen.ramp)
        schedule = Schedule(setting.task.warmup, options.pop("ramp_end", 0.75), ramp)
        self.pruner = Pruner(
            model,
            _pattern(setting),
            schedule,
            setting.task.example() if setting.pattern == "channel" else None,
            preset=chosen,
            **options,
        )

    def step(self, progress: float, optimizer: torch.optim.Optimizer) -> bool:
        """Refresh the masks."""
        del optimizer
        self.pruner.step(progress)
        return False

    def finish(self) -> None:
        """Harden."""
        self.pruner.harden()


def _changed(chosen: methods.Preset, options: dict[str, Any]) -> methods.Preset:
    if "rescale" in options:
        return replace(chosen, method=ShrinkingMask(chosen.method.temperature, power=1, rescale=options.pop("rescale")))
    if options.pop("slope", None) == "pdp":
        return replace(chosen, method=RectifiedMask(Temperature(relative=True, start=4.0, end=4.0), backward=1.0))
    return chosen


def _pattern(setting: Setting) -> Any:
    from pdp_export.pruning import NM, Channel, Unstructured

    if setting.pattern == "unstructured":
        return Unstructured(setting.sparsity)
    if setting.pattern == "channel":
        return Channel(setting.sparsity, align=1)
    return NM(*setting.kept_of)
