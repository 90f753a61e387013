"""Checkpoints as safetensors and JSON: written whole or not at all, never a pickle.

A checkpoint is a folder ``step-<global step>`` with ``tensors.safetensors`` and ``state.json``;
the JSON holds the hash of the tensors, so that a damaged pair is noticed. The last two are kept.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pdp_export.errors import FileError
from pdp_export.files import atomic_path, remove, sha256
from pdp_export.training.packing import pack, unpack

_FORMAT = "pdp-export checkpoint 1"
_KEPT = 2
_NAME = re.compile(r"step-(\d{8,})")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Tensors by name and JSON values; together the whole state of a run."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Return the snapshot as bytes, to be sent to another process."""
        return pack(self.tensors, self.meta)

    @classmethod
    def from_bytes(cls, content: bytes) -> Snapshot:
        """Return the snapshot that `to_bytes` wrote."""
        return cls(*unpack(content))


class Checkpoints:
    """The checkpoints of one run in one folder.

    `identity` says which run they belong to (seed, settings, parameter shapes); a checkpoint of
    another run is foreign and never loaded.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        self.warnings: list[str] = []

    def save(self, step: int, snapshot: Snapshot) -> Path:
        """Write a checkpoint and delete all but the last two.

        Raises:
            FileError: when the disk is full; older checkpoints are then untouched.
        """
        final = self.folder / f"step-{step:08d}"
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in snapshot.tensors.items()}
        with atomic_path(final) as temporary:
            temporary.mkdir()
            (temporary / "tensors.safetensors").write_bytes(save(copies))
            state = {
                "format": _FORMAT,
                "identity": self.identity,
                "sha256": sha256(temporary / "tensors.safetensors"),
                "state": snapshot.meta,
            }
            (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for old in self._found()[_KEPT:]:
            remove(old)
        return final

    def latest(self) -> Snapshot | None:
        """Return the newest whole checkpoint of this run, or None where there is none at all.

        A damaged or foreign one is passed over with a warning.

        Raises:
            FileError: when there are checkpoints but none can be used.
        """
        for leftover in self.folder.glob(".step-*.partial"):
            remove(leftover)
        found = self._found()
        reasons = []
        for path in found:
            try:
                return self._load(path)
            except FileError as error:
                reasons.append(f"{path.name}: {error.what}")
                self.warnings.append(f"checkpoint {path.name} was passed over: {error.what}")
                _log.warning(self.warnings[-1])
        if found:
            raise FileError(
                f"no checkpoint can be used ({'; '.join(reasons)})",
                where=self.folder.name,
                hint="delete the folder to train from the start, or restore a whole checkpoint",
            )
        return None

    def _found(self) -> list[Path]:
        paths = [path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name)]
        return sorted(paths, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)

    def _load(self, path: Path) -> Snapshot:
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            content = (path / "tensors.safetensors").read_bytes()
        except (OSError, ValueError) as error:
            raise FileError(f"it is damaged: {type(error).__name__}", where=path.name) from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise FileError(f"it is not a {_FORMAT!r}", where=path.name)
        if state.get("identity") != self.identity:
            raise FileError(
                f"it belongs to another run: {_differences(state['identity'], self.identity)}", where=path.name
            )
        if state.get("sha256") != sha256(path / "tensors.safetensors"):
            raise FileError("its tensors are damaged: the hash differs", where=path.name)
        try:
            return Snapshot(load(content), state["state"])
        except (SafetensorError, KeyError) as error:
            raise FileError("it is damaged", where=path.name) from error


def _differences(found: Any, expected: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "no identity"
    keys = [key for key in expected if found.get(key) != expected[key]]
    return ", ".join(f"{key} is {str(found.get(key))[:40]} instead of {str(expected[key])[:40]}" for key in keys)
