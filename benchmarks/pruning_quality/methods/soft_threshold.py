"""STR: a learned threshold per layer (Kusupati et al. 2020, arXiv 2002.03231).

``w_hat = sign(w) relu(|w| - sigmoid(s))`` with one scalar s per layer, trained by its true gradient;
weight decay on s raises the threshold. As published, that decay is a constant found by trial for every
sparsity. Here it follows the same cubic ramp as the others by feedback (proportional and integral) on
the sparsity that is reached, so that one run meets an order; within about half a point, and the row
holds what was reached.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.pruning_quality.methods.base import Attached, Setting, bake, original, prunable

_PROPORTIONAL, _INTEGRAL, _LIMIT = 4.0, 0.04, 2.0


class SoftThreshold(nn.Module):
    """``sign(w) relu(|w| - sigmoid(s))`` with a learned scalar `s`."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor(start))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the shrunk weight, of the shape of `weight`."""
        return weight.sign() * torch.relu(weight.abs() - torch.sigmoid(self.s))


class SoftThresholdReparameterisation(Attached):
    """STR on every prunable layer; options: `start` (of s) and `ramp_end`."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.setting = setting
        self.layers = list(prunable(model).values())
        self.thresholds = [SoftThreshold(setting.options["start"]) for _ in self.layers]
        for layer, threshold in zip(self.layers, self.thresholds, strict=True):
            parametrize.register_parametrization(layer, "weight", threshold)
        self.sum_of_errors = 0.0
        self.group: dict[str, Any] = {"params": [item.s for item in self.thresholds], "weight_decay": 0.0}

    def groups(self) -> list[dict[str, Any]]:
        """Return the thresholds; their weight decay is what steers the sparsity."""
        return [self.group]

    def step(self, progress: float, optimizer: torch.optim.Optimizer) -> bool:
        """Set the thresholds' decay from the distance to the ramp."""
        start, end = self.setting.task.warmup, self.setting.options["ramp_end"]
        along = min(1.0, (progress - start) / (end - start))
        error = self.setting.sparsity * (1 - (1 - along) ** 3) - self.sparsity()
        self.sum_of_errors += error
        decay = _PROPORTIONAL * error + _INTEGRAL * self.sum_of_errors
        if abs(decay) > _LIMIT:
            self.sum_of_errors -= error  # no wind-up while the decay is at its limit
        group = next(group for group in optimizer.param_groups if group["params"][0] is self.thresholds[0].s)
        group["weight_decay"] = max(-_LIMIT, min(_LIMIT, decay))
        return False

    @torch.no_grad()
    def sparsity(self) -> float:
        """Return the share of weights at or under their layer's threshold."""
        pairs = [
            (original(layer).abs(), torch.sigmoid(item.s))
            for layer, item in zip(self.layers, self.thresholds, strict=True)
        ]
        return sum(int((size <= limit).sum()) for size, limit in pairs) / sum(size.numel() for size, _ in pairs)

    def finish(self) -> None:
        """Write the shrunk weights."""
        for layer in self.layers:
            bake(layer)
