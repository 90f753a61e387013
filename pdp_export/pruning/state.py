"""A pruner's state as files: safetensors and JSON, no pickle.

The state remembers the pruner and the weights that it was taken with: thresholds of one checkpoint
put over the weights of another would train on without any sign of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pdp_export.errors import FileError
from pdp_export.files import atomic_path, sha256, write_text

if TYPE_CHECKING:
    from pdp_export.pruning.pruner import Pruner

_FORMAT = "pdp-export pruner 1"
_TENSORS, _NUMBERS = "pruner.safetensors", "pruner.json"


def full_state(pruner: Pruner) -> dict[str, Any]:
    """Return ``pruner.state_dict()`` and what says whose it is: JSON values, and plain tensors in "tensors"."""
    return {"format": _FORMAT, "identity": pruner.identity(), "weights": _fingerprint(pruner), **pruner.state_dict()}


def restore_full_state(pruner: Pruner, state: Mapping[str, Any], where: str) -> None:
    """Restore what `full_state` returned; the model's weights must have been loaded before.

    Raises:
        FileError: for something else, or the state of another pruner or of other weights. `where`
            names its source.
    """
    if state.get("format") != _FORMAT:
        raise FileError(f"this is not a {_FORMAT!r}", where=where)
    if state.get("identity") != pruner.identity():
        raise FileError(
            f"the state belongs to another pruner: {str(state.get('identity'))[:120]}",
            where=where,
            hint="build the Pruner with the arguments that it had when the state was saved",
        )
    if state.get("weights") != _fingerprint(pruner):
        raise FileError(
            "the state was saved with other weights than the model holds",
            where=where,
            hint="load the weights of the same checkpoint into the model first; the Pruner must be attached before",
        )
    try:
        pruner.load_state_dict({"meta": state["meta"], "tensors": state["tensors"]})
    except (KeyError, TypeError, RuntimeError) as error:
        raise FileError(f"the state is incomplete: {error}", where=where) from error


def save_pruner(pruner: Pruner, folder: Path) -> None:
    """Write ``pruner.safetensors`` and ``pruner.json`` into `folder`; the model's weights are not in them.

    Raises:
        FileError: when the disk is full.
    """
    state = full_state(pruner)
    tensors: dict[str, Tensor] = state.pop("tensors")
    with atomic_path(folder / _TENSORS) as temporary:
        temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    state["sha256"] = sha256(folder / _TENSORS)
    write_text(folder / _NUMBERS, json.dumps(state, indent=2, sort_keys=True))


def load_pruner(pruner: Pruner, folder: Path) -> None:
    """Load what `save_pruner` wrote; the model's weights must have been loaded before.

    Raises:
        FileError: when the files are missing or damaged, or belong to another pruner or other weights.
    """
    where = (folder / _NUMBERS).as_posix()
    try:
        state = json.loads((folder / _NUMBERS).read_text(encoding="utf-8"))
        content = (folder / _TENSORS).read_bytes()
    except (OSError, ValueError) as error:
        raise FileError(f"the pruner's state cannot be read: {type(error).__name__}", where=where) from error
    if not isinstance(state, dict):
        raise FileError(f"this is not a {_FORMAT!r}", where=where)
    if state.get("format") == _FORMAT and state.get("sha256") != sha256(folder / _TENSORS):
        raise FileError(f"{_TENSORS} is damaged: its hash is not the one recorded", where=where)
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise FileError(f"{_TENSORS} is damaged: {error}", where=where) from error
    restore_full_state(pruner, {**state, "tensors": tensors}, where)


def _fingerprint(pruner: Pruner) -> str:
    """Return a hash of all masked weights, whatever their device, memory layout and precision."""
    weights = [value.detach().float() for mask in pruner.masks for value in mask.parameters_masked()]
    return " ".join(f"{torch.hash_tensor(weight).item():016x}" for weight in weights)
