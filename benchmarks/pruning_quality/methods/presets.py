"""The presets of `pdp_export.Pruner`: PDP, and the rivals that it offers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.pruning_quality.methods.base import Attached, Setting
from pdp_export.pruning import Pruner, Schedule
from pdp_export.pruning.methods import preset as named_preset


class Preset(Attached):
    """One preset; every option beside `ramp_end` and `ramp` goes to the Pruner."""

    def __init__(self, model: nn.Module, setting: Setting, preset: str) -> None:
        options = dict(setting.options)
        temperature = options.pop("temperature", 1e-4)
        ramp = options.pop("ramp", named_preset(preset, temperature).ramp)
        schedule = Schedule(setting.task.warmup, options.pop("ramp_end", 0.75), ramp)
        self.pruner = Pruner(
            model,
            _pattern(setting),
            schedule,
            setting.task.example() if setting.pattern == "channel" else None,
            preset=preset,
            temperature=temperature,
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


def _pattern(setting: Setting) -> Any:
    from pdp_export.pruning import NM, Channel, Unstructured

    if setting.pattern == "unstructured":
        return Unstructured(setting.sparsity)
    if setting.pattern == "channel":
        return Channel(setting.sparsity, align=1)
    return NM(*setting.kept_of)
