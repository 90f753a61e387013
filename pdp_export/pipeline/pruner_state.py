"""Saves and loads a model under training together with its pruner: safetensors and JSON, no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from pdp_export.pruning.state import load_pruner, save_pruner

if TYPE_CHECKING:
    from torch import nn

    from pdp_export.pruning.pruner import Pruner

_WEIGHTS = "soft.safetensors"


def save_soft(model: nn.Module, pruner: Pruner, folder: Path) -> None:
    """Write ``soft.safetensors``, the weights behind the masks, and the pruner's own two files."""
    weights = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / _WEIGHTS)
    save_pruner(pruner, folder)


def load_soft(model: nn.Module, pruner: Pruner, folder: Path) -> None:
    """Load what `save_soft` wrote into a model to which a pruner of the same recipe is attached.

    Raises:
        FileError: when the pruner's state is damaged or belongs to another pruner.
    """
    model.load_state_dict(load_file(folder / _WEIGHTS))
    load_pruner(pruner, folder)
