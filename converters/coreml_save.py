"""Writes a Core ML package so that equal models give equal bytes."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from pdp_export import files

_DATE = "com.github.apple.coremltools.conversion_date"
_STAGING = "staging.mlpackage"
_ITEMS = ("Manifest.json", "Data")


def save(model: Any, path: Path) -> None:
    """Write a ``coremltools.models.MLModel`` to the directory `path`, whatever its suffix.

    coremltools only saves under names ending in .mlpackage, with random identifiers, the date of the
    day, maps in no fixed order, and a debugging table for ExecuTorch as large as the program. The package
    is saved inside `path`, moved up without the table and then made reproducible: identifiers derived
    from the item paths, no date, maps sorted.
    """
    files.remove(path)
    path.mkdir(parents=True)
    staging = path / _STAGING
    model.save(str(staging))
    for name in _ITEMS:
        (staging / name).rename(path / name)
    files.remove(staging)
    model_path = _name_items(path / "Manifest.json")
    _rewrite_specification(path / "Data" / model_path)


def _name_items(manifest_path: Path) -> str:
    """Replace the random identifiers of the manifest; return the path of the model inside Data/."""
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    items = manifest["itemInfoEntries"]
    root = items[manifest["rootModelIdentifier"]]["path"]
    named = {str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])): item for item in items.values()}
    manifest["itemInfoEntries"] = named
    manifest["rootModelIdentifier"] = str(uuid.uuid5(uuid.NAMESPACE_URL, root))
    manifest_path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    return str(root)


def _rewrite_specification(path: Path) -> None:
    from coremltools.proto import Model_pb2

    specification = Model_pb2.Model()
    specification.ParseFromString(path.read_bytes())
    specification.description.metadata.userDefined.pop(_DATE, None)
    path.unlink()  # coremltools leaves it readable by its owner only
    path.write_bytes(specification.SerializeToString(deterministic=True))
