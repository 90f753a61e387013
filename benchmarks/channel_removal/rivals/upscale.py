"""UPSCALE (Wan et al. 2023), called as its users call it, with the masks that the network already has.

It is not installed with the benchmark: its package pins an old torch. It runs on today's, given a folder with
``pip install --no-deps --target DIR apple-upscale``. On a processor without CUDA it takes masks from the weights.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from benchmarks.channel_removal.case import Case, NotPossibleError
from benchmarks.channel_removal.dialect import folded
from benchmarks.channel_removal.masks import kept_columns, maskable
from benchmarks.channel_removal.ours import Made

_WIDTH = 16


def available(folder: Path | None) -> bool:
    """Tell whether the package can be imported, from a folder if one is given."""
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec("upscale") is not None
    return False


def upscale(case: Case) -> Made:
    """Return what UPSCALE makes of the masks, with selections by index ("not ANE")."""
    return _pruned(case.copy(), case, {})


def upscale16(case: Case) -> Made:
    """The same, but kept sets are filled to multiples of 16 with zero columns, and selections of everything dropped.

    The first masked columns fill a set, for all layers alike, so that readers of one tensor agree where they can.
    """
    if case.kind != "columns":
        raise NotPossibleError("there are no zero columns to fill")
    model = case.copy()
    pruned = [(f"{name}.weight", column) for name, layer in maskable(model) for column in _dropped(layer)]
    return _pruned(model, case, {"pruned_inputs": pruned})


def _dropped(layer: nn.Conv2d) -> list[int]:
    kept = kept_columns(layer)
    masked = sorted(set(range(layer.in_channels)) - set(kept))
    return masked[-len(kept) % _WIDTH :]


def _pruned(model: nn.Module, case: Case, masks: dict[str, Any]) -> Made:
    if not available(None):
        raise NotPossibleError("apple-upscale is not installed")
    with _quiet(), torch.no_grad():
        manager = importlib.import_module("upscale.pruning").PruningManager(model)
        start, busy = time.perf_counter(), time.process_time()
        try:
            manager.compute([case.images[0]], **masks)
            seconds, cpu = time.perf_counter() - start, time.process_time() - busy
            manager.prune(is_not_ane=True)
            if masks:
                _drop_whole_selections(model, case)
            model(case.images[0])
        except Exception as error:
            raise NotPossibleError(f"UPSCALE: {type(error).__name__}: {_first_line(error)}") from error
    return Made(folded(model), {"plan_s": round(seconds, 3), "plan_cpu_s": round(cpu, 3)})


def _drop_whole_selections(model: nn.Module, case: Case) -> None:
    widths: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: Any, _: Any) -> None:
        widths[module] = inputs[0].shape[1]

    selections = [module for module in model.modules() if type(module).__name__ == "Subselect"]
    handles = [module.register_forward_hook(note) for module in selections]
    model(case.images[0])
    for handle in handles:
        handle.remove()
    indices = {module: cast(Any, module).indices for module in selections}
    whole = {module for module in selections if list(indices[module]) == list(range(widths[module]))}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in whole:
                setattr(parent, name, nn.Identity())


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it indexes in ways that torch has deprecated
        yield
