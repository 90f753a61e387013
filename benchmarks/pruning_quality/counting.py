"""What is left of a network, counted from its weights: zeros, channels, multiply-accumulates."""

from __future__ import annotations

import warnings
from typing import Any

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
    from pdp_export.graph.capture import capture
    from pdp_export.graph.counting import count
    from pdp_export.removal import remove_channels

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own deprecations
        dense = count(capture(task.model(0), task.example())).macs
        if pattern == "channel":
            return remove_channels(model, task.example()).report.macs_after / dense
        layers = count(capture(model, task.example())).layers
    return sum(layer.macs * layer.nonzero / layer.parameters for layer in layers) / dense
