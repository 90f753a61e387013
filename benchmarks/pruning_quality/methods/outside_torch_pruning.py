"""Torch-Pruning (Fang et al. 2023, arXiv 2301.12900): channels are cut out during training.

Compared at an equal share of channels: its `pruning_ratio` over the groups that `pdp_export.Pruner`
prunes too (the group of the first convolution and the classifier stay whole), ranked globally. What that
leaves in multiply-accumulates is counted and stands in the row.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from benchmarks.pruning_quality.methods.base import Attached, NotInstalledError, Setting


class TorchPruning(Attached):
    """The tool with one of its importances.

    Args:
        model: Cut in place.
        setting: Options: `cuts`, how many rounds of pruning lie between the end of the dense phase and
            `ramp_end` (1: all at once, right after the dense phase); `reg`, the sparsity penalty on
            BatchNorm scales until the last cut (importance "bn" only).
        importance: "bn" (network slimming) or "magnitude" (L2 norm of the group).
    """

    def __init__(self, model: nn.Module, setting: Setting, importance: str) -> None:
        tool = _tool()
        self.model, self.setting = model, setting
        self.cuts, self.done = setting.options["cuts"], 0
        measure = (
            tool.importance.BNScaleImportance() if importance == "bn" else tool.importance.MagnitudeImportance(p=2)
        )
        kind = tool.pruner.BNScalePruner if importance == "bn" else tool.pruner.MagnitudePruner
        extra = {"reg": setting.options["reg"]} if importance == "bn" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about every parameter that it leaves alone
            self.pruner = kind(
                model,
                setting.task.example()[0],
                importance=measure,
                global_pruning=True,
                pruning_ratio=setting.sparsity,
                max_pruning_ratio=0.98,
                iterative_steps=self.cuts,
                ignored_layers=_whole(model),
                **extra,
            )
        self.regularise = importance == "bn"

    def gradients(self) -> None:
        """Add the penalty on BatchNorm scales while there is something left to cut."""
        if self.regularise and self.done < self.cuts:
            self.pruner.regularize(self.model)

    def step(self, progress: float, optimizer: torch.optim.Optimizer) -> bool:
        """Cut when the next round is due; the model's parameters are new ones then."""
        del optimizer
        if self.done < self.cuts and progress >= self._due(self.done):
            self.pruner.step()
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.done += 1
            return True
        return False

    def _due(self, cut: int) -> float:
        start, end = self.setting.task.warmup, self.setting.options["ramp_end"]
        return start + (end - start) * (cut + 1) / self.cuts if self.cuts > 1 else start


def _whole(model: nn.Module) -> list[nn.Module]:
    """Return the layers that keep all their output channels: the first convolution and the classifier."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [layers[0], layers[-1]]


def _tool() -> Any:
    try:
        import torch_pruning  # type: ignore[import-untyped]
    except ImportError as error:
        raise NotInstalledError("torch-pruning") from error
    return torch_pruning
