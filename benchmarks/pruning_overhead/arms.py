"""What is done after each optimizer step: nothing, one of our presets, or coremltools' pruner."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from pdp_export.pruning import Pruner, Schedule, Unstructured

SPARSITY = 0.9
RUN_STEPS = 10_000  # the length of the pretended run: thresholds move a little on every refresh
_START = RUN_STEPS // 3  # in the middle of the ramp, where masks change on every refresh

Step = Callable[[], None]

# name: (preset or tool, steps between two refreshes). "again" is dense once more, the A/A control.
ARMS: dict[str, tuple[str, int]] = {
    "dense": ("dense", 0),
    "again": ("dense", 0),
    "pdp_default/16": ("default", 16),
    "pdp_default/1": ("default", 1),
    "pdp_rectified/16": ("rectified", 16),
    "pdp_paper/1": ("paper", 1),
    "gradual/16": ("gradual", 16),
    "st3/16": ("st3", 16),
    "coremltools/16": ("coremltools", 16),
    "coremltools/1": ("coremltools", 1),
}


class NotInstalledError(Exception):
    """An outside tool is not there; the text names the package."""


def attach(arm: str, model: nn.Module) -> Step:
    """Attach an arm to `model`; return what it does after each optimizer step.

    Raises:
        NotInstalledError: when the arm is an outside tool that is missing.
    """
    kind, every = ARMS[arm]
    if kind == "dense":
        return lambda: None
    return _coremltools(model, every) if kind == "coremltools" else _ours(model, kind, every)


def pruned_layers(model: nn.Module) -> list[str]:
    """Return the layers that our Pruner takes by default; the tool is told to take the same ones.

    Call it on a network that is thrown away: masks stay attached.
    """
    return [mask.name for mask in Pruner(model, Unstructured(SPARSITY)).masks]


def _ours(model: nn.Module, preset: str, every: int) -> Step:
    pruner = Pruner(model, Unstructured(SPARSITY), Schedule(0.1, 0.75), preset=preset, refresh_every=every)
    done = _START

    def advance() -> None:
        nonlocal done
        done += 1
        pruner.step(done / RUN_STEPS)

    return advance


def _coremltools(model: nn.Module, every: int) -> Step:
    import copy

    with _quiet():
        try:
            from coremltools.optimize.torch import pruning
        except ImportError as error:
            raise NotInstalledError("coremltools") from error
        layers = set(pruned_layers(copy.deepcopy(model)))
        scheduler = {"update_steps": list(range(0, RUN_STEPS // 2, every))}
        config: dict[str, Any] = {
            name: {"scheduler": scheduler, "target_sparsity": SPARSITY, "initial_sparsity": SPARSITY / 2}
            for name in layers
        }
        config |= {
            name: None
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and name not in layers
        }
        tool = pruning.MagnitudePruner(
            model, pruning.MagnitudePrunerConfig.from_dict({"global_config": None, "module_name_configs": config})
        )
        tool.prepare(inplace=True)
    advance: Step = tool.step
    return advance


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tool's advice on untested torch versions off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
