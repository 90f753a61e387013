"""Builds the user's network and loads its weights, never executing code from a weights file."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pdp_export.errors import FileError, RecipeError, UnsafeFileError, first_line
from pdp_export.tasks.references import call, resolve
from pdp_export.tasks.seeding import seed_everything

if TYPE_CHECKING:
    from pdp_export.recipe import Recipe

_NAMED = 5


def build_model(recipe: Recipe) -> nn.Module:
    """Return a fresh network from the recipe's model factory; parameters are drawn with its seed.

    Raises:
        RecipeError: when the factory fails or returns something else than an nn.Module.
    """
    factory = resolve(recipe.model.factory, recipe.folder, "model.factory")
    seed_everything(recipe.seed)
    model = call(factory, recipe.model.arguments, "model.factory")
    if not isinstance(model, nn.Module):
        raise RecipeError(
            f"model.factory returned {type(model).__name__}, not a torch.nn.Module", where="model.factory"
        )
    return model


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, or a state dict by ``torch.load(weights_only=True)``.

    Raises:
        UnsafeFileError: for a pickle that holds anything but tensors; it is refused, not executed.
        FileError: for a missing, truncated or foreign file.
    """
    if not path.is_file():
        raise FileError(
            f"the weights file {path.name} does not exist", where=str(path), hint="check model.weights or --weights"
        )
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_weights_only(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise FileError(
            f"{path.name} holds no plain state dict of tensors",
            where=str(path),
            hint="save it with safetensors.torch.save_file(model.state_dict(), ...)",
        )
    return state


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors; tensors that share memory are stored once per name."""
    from safetensors.torch import save_file

    save_file({key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weights file into `model`, all keys and shapes matching.

    Raises:
        FileError: naming missing, unknown and misshapen tensors.
    """
    state = read_state_dict(path)
    own = model.state_dict()
    misshapen = [
        f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": misshapen,
    }
    found = [f"{len(keys)} {kind} ({', '.join(keys[:_NAMED])})" for kind, keys in problems.items() if keys]
    if found:
        raise FileError(
            f"{path.name} does not fit the model: {'; '.join(found)}",
            where=str(path),
            hint="check model.factory and model.arguments",
        )
    model.load_state_dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            f"{path.name} is not a whole safetensors file: {error}", where=str(path), hint="copy or save it again"
        ) from error


def _read_weights_only(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch advises torch.jit.load before it refuses a TorchScript file.
            return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except pickle.UnpicklingError as error:
        if not _starts_like_torch(path):
            raise FileError(
                f"{path.name} is neither a .safetensors file nor a state dict of torch",
                where=str(path),
                hint="give what safetensors.torch.save_file(model.state_dict(), ...) or torch.save wrote",
            ) from error
        raise UnsafeFileError(
            f"{path.name} is a pickle that holds more than tensors; it was refused, nothing in it was executed",
            where=str(path),
            hint="save only model.state_dict(), best as .safetensors",
        ) from error
    except Exception as error:  # A damaged pickle ends in almost any kind of error.
        raise FileError(
            f"{path.name} is truncated or no PyTorch file: {first_line(error)}",
            where=str(path),
            hint="copy or save it again",
        ) from error


def _starts_like_torch(path: Path) -> bool:
    """Whether a file begins as torch's do: a zip archive, or before torch 1.6 a pickle."""
    with path.open("rb") as stream:
        return stream.read(2).startswith((b"PK", b"\x80"))
