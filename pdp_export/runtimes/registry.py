"""Which runtimes exist, loaded on first use; and the interface each of them offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from pdp_export.errors import FileError, UsageError, near_misses
from pdp_export.results import Execution, FileFacts, StoredWeight, TensorSpec

Array = np.ndarray[Any, Any]

MODULES = {
    "onnx": "pdp_export.runtimes.onnx_runtime",
    "coreml": "pdp_export.runtimes.coreml_package",
    "litert": "pdp_export.runtimes.litert_runtime",
    "mnn": "pdp_export.runtimes.mnn_runtime",
}
SUFFIXES = {".onnx": "onnx", ".mlpackage": "coreml", ".tflite": "litert", ".mnn": "mnn"}


class Session(Protocol):
    """An opened file. Arrays are in the file's own layout and dtype (see `inputs[i].layout`)."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch and return every output by name (fresh arrays, safe to keep)."""


class Runtime(Protocol):
    """What the module of a runtime offers."""

    NAME: str

    def version(self) -> str:
        """Return the version of the library that runs the file."""

    def describe(self, path: Path) -> FileFacts:
        """Return what the file holds, read from its own bytes.

        Raises:
            FileError: for a truncated, damaged or foreign file.
        """

    def weights(self, path: Path) -> list[StoredWeight]:
        """Return every decoded weight of rank >= 2 in PyTorch layout."""

    def execution(self) -> Execution:
        """Return what runs files here, and whether its time means anything."""

    def open_session(self, path: Path, threads: int = 1) -> Session:
        """Open the file for execution.

        Raises:
            NotRunnableError: where this machine cannot execute the format (the reason is the message).
            FileError: for a damaged or foreign file.
        """


def load(name: str) -> Runtime:
    """Return the runtime module of a target.

    Raises:
        UsageError: for an unknown name, with near misses.
    """
    if name not in MODULES:
        known = ", ".join(MODULES)
        raise UsageError(f"unknown runtime {name!r}{near_misses(name, MODULES)}", hint=f"use one of: {known}")
    return cast(Runtime, import_module(MODULES[name]))


def name_for(path: Path, *, also: Sequence[str] = ()) -> str:
    """Return the runtime name for a file by its suffix; `also` are suffixes that the caller opens beside ours.

    Raises:
        FileError: when the file does not exist or its suffix is none of ours.
    """
    if not path.exists():
        raise FileError(f"{path.name} does not exist", where=str(path), hint="check the path")
    if path.suffix == ".ort":
        raise FileError(
            f"{path.name} is read by `pdp-export inspect` only",
            where=str(path),
            hint="give the .onnx file that it was made from; `convert --ort` proves that both answer alike",
        )
    name = SUFFIXES.get(path.suffix)
    if name is None and (path / "artifacts").is_dir():
        raise FileError(
            f"{path.name} is a run directory, not a model file",
            where=str(path),
            hint=f"give one of the files in {path / 'artifacts'}",
        )
    if name is None:
        raise FileError(
            f"{path.name} has suffix {path.suffix or '(none)'!r}, which no runtime here opens",
            where=str(path),
            hint=f"give a file ending in {', '.join((*SUFFIXES, *also))}",
        )
    return name
