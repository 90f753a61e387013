"""What is left of a network, counted from its weights: zeros, channels, multiply-accumulates."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pruning_quality.methods.base import prunable
from benchmarks.pruning_quality.tasks import Task


def leftovers(model: nn.Module, task: Task, pattern: str) -> dict[str, Any]:
    """Return reached sparsity, kept multiply-accumulates and sparsity per layer of a finished network.

    `sparsity` is the share of zero weights of the prunable layers, or of their missing or dead output
    channels for the pattern "channel". `macs_kept` is the share of the dense network's: a zero weight
    works nowhere; channels are cut out first, for every method alike.
    """
    dense = prunable(task.model(0))
    layers = {name: 1 - _alive(layer, dense[name], pattern) for name, layer in prunable(model).items()}
    sizes = {
        name: layer.out_channels if pattern == "channel" else layer.weight.numel() for name, layer in dense.items()
    }
    return {
        "sparsity": sum(layers[name] * size for name, size in sizes.items()) / sum(sizes.values()),
        "macs_kept": _macs_kept(model, task, pattern),
        "layers": {name: round(share, 5) for name, share in layers.items()},
    }


def _alive(layer: nn.Conv2d, dense: nn.Conv2d, pattern: str) -> float:
    weight: Tensor = layer.weight.detach()
    if pattern == "channel":
        return int(weight.flatten(1).any(1).sum()) / dense.out_channels
    return int(weight.count_nonzero()) / dense.weight.numel()


def _macs_kept(model: nn.Module, task: Task, pattern: str) -> float:
    dense = _working_weights(task.model(0), task)
    if pattern != "channel":
        return _working_weights(model, task) / dense
    from pdp_export.removal import remove_channels

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own deprecations
        return remove_channels(model, task.example()).report.macs_after / dense


@torch.no_grad()
def _working_weights(model: nn.Module, task: Task) -> int:
    """Return the multiply-accumulates per image of the weights that are not zero."""
    work: list[int] = []

    def add(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        del inputs
        positions = output[0, 0].numel() if output.dim() > 2 else 1
        work.append(int(layer.get_parameter("weight").count_nonzero()) * positions)

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    model.eval()
    model(*task.example())
    model.train()
    for hook in hooks:
        hook.remove()
    return sum(work)
