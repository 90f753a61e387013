"""Finds the user's own functions: ``module:function`` or ``path/to/file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pdp_export.errors import PdpExportError, RecipeError, first_line, near_misses
from pdp_export.tasks.user_source import user_line


def resolve(reference: str, folder: Path, key: str) -> Callable[..., Any]:
    """Return the function that a recipe key refers to.

    Args:
        reference: ``module:function``, or ``file.py:function`` relative to `folder`.
        folder: Folder of the recipe.
        key: The recipe key, for the error message.

    Raises:
        RecipeError: when the module or function cannot be found, or importing it fails (with the user's own line).
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise RecipeError(
            f"{key} is {reference!r}, not a reference to a function",
            where=key,
            hint="write module:function or path/to/file.py:function",
        )
    module = _import_file(folder / place, key) if place.endswith(".py") else _import_module(place, key)
    function = getattr(module, name, None)
    if not callable(function):
        public = [item for item in vars(module) if not item.startswith("_")]
        raise RecipeError(
            f"{place} has no function {name!r}{near_misses(name, public)}",
            where=key,
            hint="check the name after the colon",
        )
    return function  # type: ignore[no-any-return]


def call(function: Callable[..., Any], arguments: Mapping[str, Any], key: str, *positional: Any) -> Any:
    """Call a user's function; an error of ours passes as it is.

    Raises:
        RecipeError: when it raises, quoting the user's own line.
    """
    try:
        return function(*positional, **arguments)
    except PdpExportError:
        raise
    except (Exception, SystemExit) as error:
        raise RecipeError(
            f"{key} raised {first_line(error)}",
            where=user_line(error) or key,
            hint=f"check {key} and its arguments",
        ) from error


def _import_module(name: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"{key} names module {name!r}, but {error.name!r} is not installed",
            where=key,
            hint="install it in this environment, or refer to the file: path/to/file.py:function",
        ) from error
    except (Exception, SystemExit) as error:
        raise RecipeError(f"importing {name} raised {first_line(error)}", where=user_line(error) or key) from error


def _import_file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        raise RecipeError(
            f"{key} names {path.name}, which does not exist",
            where=str(path),
            hint="paths count from the recipe's folder",
        )
    name = f"pdp_export_user_{zlib.crc32(path.resolve().as_posix().encode()):x}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path.name} cannot be imported as Python", where=key)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    neighbours = str(path.resolve().parent)
    if neighbours not in sys.path:
        sys.path.insert(0, neighbours)  # As for a script: its file imports what lies beside it, now or later.
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RecipeError(f"importing {path.name} raised {first_line(error)}", where=user_line(error) or key) from error
    return module
