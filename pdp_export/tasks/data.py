"""The user's data: three loaders, checked against the recipe before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pdp_export.errors import DataError, first_line, near_misses
from pdp_export.tasks.references import call, resolve
from pdp_export.tasks.seeding import seed_everything
from pdp_export.tasks.user_source import user_line

if TYPE_CHECKING:
    from pdp_export.recipe import InputSection, Recipe

_KEYS = ("train", "validation", "calibration")
_BATCH_LENGTH = 2


@dataclass(frozen=True)
class Loaders:
    """Three iterables of ``(inputs, target)`` batches, each re-iterable.

    `inputs` is a tensor, a tuple of tensors in the order of the recipe's inputs, or a dict by input name.
    `calibration` may be the same object as `train`.
    """

    train: Iterable[Any]
    validation: Iterable[Any]
    calibration: Iterable[Any]


def unpack(batch: Any, names: Sequence[str] = ()) -> tuple[tuple[Tensor, ...], Any]:
    """Split a batch into ``(inputs, target)``, inputs as a tuple in model order.

    Raises:
        DataError: when the batch is not a pair.
    """
    if not isinstance(batch, Sequence) or len(batch) != _BATCH_LENGTH:
        kind = f"{type(batch).__name__} of length {len(batch)}" if isinstance(batch, Sequence) else type(batch).__name__
        raise DataError(f"a batch is a {kind}, not a pair (inputs, target)", where="data.factory")
    inputs, target = batch
    if isinstance(inputs, Mapping):
        return tuple(inputs[name] for name in (names or inputs)), target
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), target


def load_data(recipe: Recipe) -> Loaders:
    """Call the data factory and check the first batch of every loader.

    The factory returns a mapping with the keys train, validation and (optionally) calibration.

    Raises:
        DataError: naming loader, input, shape found and shape expected.
        RecipeError: when the factory itself fails.
    """
    factory = resolve(recipe.data.factory, recipe.folder, "data.factory")
    seed_everything(recipe.seed)
    made = call(factory, recipe.data.arguments, "data.factory")
    if not isinstance(made, Mapping):
        raise DataError(
            f"the data factory returned {type(made).__name__}, not a mapping", where="data.factory", hint=_shape_hint()
        )
    unknown = [str(key) for key in made if key not in _KEYS]
    missing = [key for key in _KEYS[:2] if key not in made]
    if unknown or missing:
        misses = "".join(near_misses(key, _KEYS) for key in unknown)
        raise DataError(
            f"the data factory returned the keys {sorted(map(str, made))}{misses}",
            where="data.factory",
            hint=_shape_hint(),
        )
    loaders = Loaders(made["train"], made["validation"], made.get("calibration", made["train"]))
    for key in _KEYS:
        check_loader(getattr(loaders, key), key, recipe.inputs)
    return loaders


def check_loader(loader: Iterable[Any], key: str, inputs: Sequence[InputSection]) -> None:
    """Compare the first batch of a loader with the recipe's inputs.

    Raises:
        DataError: for an empty loader, a wrong number of inputs, a wrong shape or dtype.
    """
    where = f"data.factory: {key}"
    try:
        batches = iter(loader)
        first = next(batches)
    except StopIteration:
        raise DataError(f"the {key} loader is empty", where=where, hint="check the data factory's split") from None
    except Exception as error:
        raise DataError(f"the {key} loader raised {first_line(error)}", where=user_line(error) or where) from error
    if batches is loader and type(loader).__module__ in {"builtins", "itertools"}:
        raise DataError(
            f"the {key} loader can be read only once",
            where=where,
            hint="return a DataLoader or a list of batches, not a generator: every epoch reads it again",
        )
    tensors, _ = _unpack_named(first, inputs, where)
    for tensor, expected in zip(tensors, inputs, strict=True):
        _check_tensor(tensor, expected, where)


def _unpack_named(batch: Any, inputs: Sequence[InputSection], where: str) -> tuple[tuple[Tensor, ...], Any]:
    names = [item.name for item in inputs]
    try:
        tensors, target = unpack(batch, names)
    except KeyError as error:
        raise DataError(f"the batch lacks input {error}; it has {sorted(batch[0])}", where=where) from error
    if len(tensors) != len(inputs):
        raise DataError(
            f"the batch holds {len(tensors)} inputs, the recipe {len(inputs)} ({', '.join(names)})", where=where
        )
    return tensors, target


def _check_tensor(tensor: Tensor, expected: InputSection, where: str) -> None:
    if not isinstance(tensor, Tensor):
        raise DataError(f"input {expected.name!r} is a {type(tensor).__name__}, not a tensor", where=where)
    free = {0, *expected.dynamic}
    wrong = len(tensor.shape) != len(expected.shape) or any(
        axis not in free and size != expected.shape[axis] for axis, size in enumerate(tensor.shape)
    )
    if wrong:
        raise DataError(
            f"input {expected.name!r} has shape {tuple(tensor.shape)}, the recipe says {tuple(expected.shape)}"
            f" (free axes: {sorted(free)})",
            where=where,
            hint=f"change inputs.{expected.name}.shape in the recipe, or the data factory",
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype != expected.dtype:
        raise DataError(
            f"input {expected.name!r} is {dtype}, the recipe says {expected.dtype}",
            where=where,
            hint="convert it in the data factory, or change the dtype in the recipe",
        )


def _shape_hint() -> str:
    return 'return {"train": loader, "validation": loader, "calibration": loader}'
