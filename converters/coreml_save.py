"""Writes a Core ML package so that equal models give equal bytes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pdp_export import files

_DATE = "com.github.apple.coremltools.conversion_date"
_STAGING = "staging.mlpackage"
_ITEMS = ("Manifest.json", "Data")


@contextmanager
def written_package(path: Path, metadata: Mapping[str, str]) -> Iterator[Path]:
    """Yield the folder that coremltools shall write to; turn it into the package `path`, or leave nothing.

    coremltools only writes names ending in .mlpackage, with random identifiers, the date of the day,
    maps in no fixed order, and a debugging table for ExecuTorch as large as the program. The package is
    moved up without the table and made reproducible: identifiers derived from the item paths, no date,
    maps sorted. `metadata` is added to what coremltools noted about itself.
    """
    files.remove(path)
    path.mkdir(parents=True)
    staging = path / _STAGING
    try:
        yield staging
        for name in _ITEMS:
            (staging / name).rename(path / name)
        files.remove(staging)
        model_path = _name_items(path / "Manifest.json")
        _rewrite_specification(path / "Data" / model_path, metadata)
    except BaseException:
        files.remove(path)
        raise


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


def _rewrite_specification(path: Path, metadata: Mapping[str, str]) -> None:
    from coremltools.proto import Model_pb2

    specification = Model_pb2.Model()
    specification.ParseFromString(path.read_bytes())
    noted = specification.description.metadata.userDefined
    noted.pop(_DATE, None)
    noted.update(metadata)
    path.unlink()  # coremltools leaves it readable by its owner only
    path.write_bytes(specification.SerializeToString(deterministic=True))
