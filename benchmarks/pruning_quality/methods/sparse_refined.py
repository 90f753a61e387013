"""SR-STE for N:M (Zhou et al. 2021, arXiv 2102.04010).

The forward pass keeps the N largest of every M neighbours along the input channels; the gradient goes to
all weights (straight through) plus ``lambda * w`` for the pruned ones, which pulls them to zero and so keeps
the masks from flipping.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.pruning_quality.methods.base import Attached, Setting, bake, group_mask, prunable


class RefinedStraightThrough(torch.autograd.Function):
    """``w * mask(w)`` with the gradient ``g + decay * (1 - mask) * w``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, kept: int, group: int, decay: float) -> Tensor:
        """Return the masked weight, of the shape of `weight` (C_out, C_in, ...)."""
        mask = group_mask(weight, kept, group)
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Pass the gradient on and pull pruned weights to zero."""
        weight, mask = ctx.saved_tensors
        return gradients[0] + ctx.decay * (1 - mask) * weight, None, None, None


class _Masked(nn.Module):
    def __init__(self, kept: int, group: int, decay: float) -> None:
        super().__init__()
        self.kept, self.group, self.decay = kept, group, decay

    def forward(self, weight: Tensor) -> Tensor:
        return RefinedStraightThrough.apply(  # type: ignore[no-any-return, no-untyped-call]
            weight, self.kept, self.group, self.decay
        )


class SparseRefined(Attached):
    """SR-STE from the end of the dense phase on; option: `pull`, the factor lambda."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.layers = list(prunable(model).values())
        for layer in self.layers:
            parametrize.register_parametrization(layer, "weight", _Masked(*setting.kept_of, setting.options["pull"]))

    def finish(self) -> None:
        """Write the zeros."""
        for layer in self.layers:
            bake(layer)
