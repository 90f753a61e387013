"""Saves and loads a model under training together with its pruner: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from torch import nn

    from pdp_export.pruning.pruner import Pruner


def save_soft(model: nn.Module, pruner: Pruner, folder: Path) -> None:
    """Write ``soft.safetensors`` (model and pruner tensors) and ``soft.json`` (the pruner's numbers)."""
    state = pruner.state_dict()
    both = {f"model.{key}": value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    both |= {f"pruner.{key}": value.contiguous() for key, value in state["tensors"].items()}
    save_file(both, folder / "soft.safetensors")
    (folder / "soft.json").write_text(json.dumps(state["meta"], indent=2, sort_keys=True), encoding="utf-8")


def load_soft(model: nn.Module, pruner: Pruner, folder: Path) -> None:
    """Load what `save_soft` wrote into a model to which a pruner of the same recipe is attached."""
    both = load_file(folder / "soft.safetensors")
    split = {
        prefix: {key.removeprefix(f"{prefix}."): value for key, value in both.items() if key.startswith(f"{prefix}.")}
        for prefix in ("model", "pruner")
    }
    model.load_state_dict(split["model"])
    meta = json.loads((folder / "soft.json").read_text(encoding="utf-8"))
    pruner.load_state_dict({"meta": meta, "tensors": split["pruner"]})
