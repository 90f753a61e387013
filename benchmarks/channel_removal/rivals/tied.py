"""Torch-Pruning at the same ratio: tied channels, a different and smaller function, the floor that no rival reaches.

``tied`` is our removal on the same network with zeros exactly where Torch-Pruning cuts: what its masks would give us.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.channel_removal import ours, subjects
from benchmarks.channel_removal.case import Case, NotPossibleError
from benchmarks.channel_removal.dialect import folded
from benchmarks.channel_removal.ours import Made

WIDTH = 16


def torch_pruning(case: Case) -> Made:
    """Return the network with the ratio of the case cut from every group, widths as they come."""
    return Made(folded(_cut(case, None)))


def torch_pruning16(case: Case) -> Made:
    """The same with widths rounded down to multiples of 16."""
    return Made(folded(_cut(case, WIDTH)))


def tied(runtime: str) -> Callable[[Case], Made]:
    """Return our variant of the network with Torch-Pruning's own masks, rounded to 16."""

    def make(case: Case) -> Made:
        model = tied_network(case)
        made = ours.removed_from(model, case.images[:1], ours.measured(runtime, case.costs))
        with torch.no_grad():
            differences = [_difference(model(image), made.module(image)) for image in case.images]
        return Made(made.module, made.facts | {"own_error": max(differences)})

    return make


def tied_network(case: Case) -> nn.Module:
    """Return the dense network with zeros where `torch_pruning16` cuts."""
    model = _dense(case)
    for group in _pruner(model, case, WIDTH).step(interactive=True):
        for dependency, places in group:
            _zero(dependency, places)
    return model


def _cut(case: Case, width: int | None) -> nn.Module:
    model = _dense(case)
    pruner = _pruner(model, case, width)
    for group in pruner.step(interactive=True):
        group.prune()
    return model.eval()


def _dense(case: Case) -> nn.Module:
    return subjects.calibrate(subjects.network(case.net))


def _pruner(model: nn.Module, case: Case, width: int | None) -> Any:
    try:
        import torch_pruning as tool  # type: ignore[import-untyped]
    except ImportError as error:
        raise NotPossibleError("torch-pruning is not installed") from error
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tool.pruner.BasePruner(
            model,
            case.images[0],
            importance=tool.importance.RandomImportance(),
            pruning_ratio=case.ratio,
            round_to=width,
            ignored_layers=[model.get_submodule("classifier")],
        )


@torch.no_grad()
def _zero(dependency: Any, places: list[int]) -> None:
    """Zero what a dependency would cut: rows, columns, or the entries of a BatchNorm."""
    module, name = dependency.target.module, dependency.handler.__name__
    index = torch.tensor(places)
    if isinstance(module, nn.BatchNorm2d):
        module.weight[index] = module.bias[index] = 0.0
    elif isinstance(module, nn.Conv2d | nn.Linear):
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        if "out" in name or depthwise:
            module.weight[index] = 0.0
            if module.bias is not None:
                module.bias[index] = 0.0
        else:
            module.weight[:, index] = 0.0


def _difference(old: Tensor, new: Tensor) -> float:
    return float((old - new).abs().max() / old.abs().max())
