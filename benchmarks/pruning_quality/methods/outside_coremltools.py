"""coremltools' own `MagnitudePruner`: gradual magnitude pruning with a cubic ramp, layer by layer."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import torch
from torch import nn

from benchmarks.pruning_quality.methods.base import Attached, NotInstalledError, Setting, magnitude_masks, prunable


class CoremltoolsMagnitude(Attached):
    """The tool on every prunable layer.

    Options: `ramp_end`, and `layers`: "uniform", the tool's own way (one ratio for all layers), or
    "global", layer ratios from one ranking of all weights at the end of the dense phase, as the
    other methods get them. N:M needs no ratio.
    """

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        layers = prunable(model)
        with _quiet():
            pruning = _tool()
            ratios = _ratios(layers, setting)
            first = round(setting.task.warmup * setting.steps)
            last = round(setting.options["ramp_end"] * setting.steps)
            steps = list(range(0, last - first + 1))
            configs = {
                name: {"scheduler": {"update_steps": steps}, **_target(setting, ratio)}
                for name, ratio in zip(layers, ratios, strict=True)
            }
            config = pruning.MagnitudePrunerConfig.from_dict(
                {"global_config": None, "module_name_configs": configs | _dense(model, set(layers))}
            )
            self.pruner = pruning.MagnitudePruner(model, config)
            self.pruner.prepare(inplace=True)

    def step(self, progress: float, optimizer: torch.optim.Optimizer) -> bool:
        """Let the tool count its step."""
        del progress, optimizer
        self.pruner.step()
        return False

    @torch.no_grad()
    def finish(self) -> None:
        """Let the tool write its zeros."""
        with _quiet():
            self.pruner.finalize(inplace=True)


def _ratios(layers: dict[str, nn.Conv2d], setting: Setting) -> list[float]:
    if setting.options["layers"] == "uniform" or setting.pattern != "unstructured":
        return [setting.sparsity] * len(layers)
    masks = magnitude_masks([layer.weight for layer in layers.values()], setting.sparsity)
    return [1 - float(mask.mean()) for mask in masks]


def _target(setting: Setting, ratio: float) -> dict[str, Any]:
    if setting.pattern == "unstructured":
        return {"target_sparsity": ratio, "granularity": "per_scalar"}
    kept, group = setting.kept_of
    return {"n_m_ratio": [group - kept, group], "dim": 1}


def _dense(model: nn.Module, layers: set[str]) -> dict[str, None]:
    return {
        name: None
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name not in layers
    }


def _tool() -> Any:
    try:
        from coremltools.optimize.torch import pruning
    except ImportError as error:
        raise NotInstalledError("coremltools") from error
    return pruning


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the tool's advice on untested torch versions off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
