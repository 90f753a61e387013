"""Finds the files of a Core ML package by its manifest, and never leaves the package."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pdp_export.errors import FileError
from pdp_export.runtimes.coreml_proto import new_model
from pdp_export.runtimes.mil.weight_file import WeightFile

_HINT = "the package is damaged or foreign; write it again"
_MODEL_PATH = "@model_path/"


class PackageFiles:
    """The parsed specification of a package, and its weight files by the name the program uses.

    Raises:
        FileError: for a missing, damaged or foreign package, or a name that leads out of it.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise FileError(f"{path.name} is not a directory, so not a Core ML package", where=path.name, hint=_HINT)
        self._package = path.resolve()
        self._model_path = self._inside(path / "Data" / _root_item(path))
        self.specification = _parse(self._model_path)
        self.weights = cache(self._weights)

    def _weights(self, name: str) -> WeightFile:
        if not name.startswith(_MODEL_PATH):
            raise FileError(f"the program names a weight file {name!r} outside {_MODEL_PATH}", hint=_HINT)
        return WeightFile(self._inside(self._model_path.parent / name.removeprefix(_MODEL_PATH)))

    def _inside(self, path: Path) -> Path:
        try:
            resolved = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links
            raise FileError(f"the package names an impossible path ({error})", hint=_HINT) from error
        if not resolved.is_relative_to(self._package):
            raise FileError(f"{path.name} leads out of the package; it was not opened", where=path.name, hint=_HINT)
        if not resolved.is_file():
            raise FileError(f"{path.name} is missing from the package", where=self._package.name, hint=_HINT)
        return resolved


def _root_item(path: Path) -> str:
    """Return the path of the model inside Data/, as the manifest gives it."""
    try:
        manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error.strerror)
        raise FileError(
            f"Manifest.json does not name the model ({reason})", where=f"{path.name}/Manifest.json", hint=_HINT
        ) from error
    if not isinstance(item, str):
        raise FileError("Manifest.json does not name the model by a path", where=path.name, hint=_HINT)
    return item


def _parse(path: Path) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

    specification = new_model()
    try:
        specification.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise FileError(f"{path.name} cannot be parsed: {error}", where=path.name, hint=_HINT) from error
    kind = specification.WhichOneof("Type")
    if kind != "mlProgram":
        raise FileError(
            f"{path.name} holds a {kind or 'nothing known'}, not an ML Program", where=path.name, hint=_HINT
        )
    return specification
