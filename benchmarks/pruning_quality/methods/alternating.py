"""AC/DC: alternating sparse and dense phases (Peste et al. 2021, arXiv 2106.12379).

A sparse phase starts by keeping the largest weights of all layers together and training those only; in a
dense phase everything trains again, pruned weights from zero. The last phase is sparse and takes what is
left of the run.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from benchmarks.pruning_quality.methods.base import Attached, Fixed, Setting, bake, magnitude_masks, original, prunable


class AlternatingPhases(Attached):
    """AC/DC on every prunable layer.

    Options: `phase_epochs`, the length of each phase in epochs, and `final_share`, the share of the
    run kept for the last sparse phase.
    """

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.setting = setting
        self.layers = list(prunable(model).values())
        self.masks = [Fixed(layer.weight) for layer in self.layers]
        for layer, mask in zip(self.layers, self.masks, strict=True):
            parametrize.register_parametrization(layer, "weight", mask)
        self.sparse = False

    def step(self, progress: float, optimizer: torch.optim.Optimizer) -> bool:
        """Change the phase where one ends."""
        sparse = self.is_sparse(progress)
        if sparse != self.sparse:
            self.sparse = sparse
            self._compress(optimizer) if sparse else self._decompress()
        return False

    def is_sparse(self, progress: float) -> bool:
        """Tell the phase at this progress: the first one after the dense phase is sparse."""
        task = self.setting.task
        if progress >= 1 - self.setting.options.get("final_share", 0.3):
            return True
        epochs = progress * task.epochs - task.dense_epochs
        return epochs >= 0 and int(epochs // self.setting.options["phase_epochs"]) % 2 == 0

    def finish(self) -> None:
        """Write the zeros of the last phase."""
        for layer in self.layers:
            bake(layer)

    @torch.no_grad()
    def _compress(self, optimizer: torch.optim.Optimizer) -> None:
        weights = [original(layer) for layer in self.layers]
        for weight, holder, mask in zip(
            weights, self.masks, magnitude_masks(list(weights), self.setting.sparsity), strict=True
        ):
            holder.mask.copy_(mask)
            weight.mul_(mask)
            momentum = optimizer.state[weight].get("momentum_buffer")
            if momentum is not None:
                momentum.mul_(mask)

    def _decompress(self) -> None:
        for holder in self.masks:
            holder.mask.fill_(1.0)
