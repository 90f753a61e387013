"""One-shot magnitude pruning: everything at once, then fine-tuning with the mask held fixed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from benchmarks.pruning_quality.methods.base import Attached, Fixed, Setting, bake, magnitude_masks, original, prunable


class OneShot(Attached):
    """Prune when the share `at` of the run after the dense phase is done."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.setting = setting
        self.layers = list(prunable(model).values())
        self.masks = [Fixed(layer.weight) for layer in self.layers]
        for layer, mask in zip(self.layers, self.masks, strict=True):
            parametrize.register_parametrization(layer, "weight", mask)
        self.done = False

    def step(self, progress: float, optimizer: torch.optim.Optimizer) -> bool:
        """Set the masks once."""
        del optimizer
        warmup = self.setting.task.warmup
        if not self.done and progress >= warmup + self.setting.options["at"] * (1 - warmup):
            weights = [original(layer).detach() for layer in self.layers]
            for holder, mask in zip(self.masks, magnitude_masks(weights, self.setting.sparsity), strict=True):
                holder.mask.copy_(mask)
            self.done = True
        return False

    def finish(self) -> None:
        """Write the zeros."""
        for layer in self.layers:
            bake(layer)
