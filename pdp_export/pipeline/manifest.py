"""manifest.json: what has been done in a run directory, by which versions, from which inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pdp_export import files
from pdp_export.errors import RunDirectoryError
from pdp_export.results import Record, StageResult

FILE_NAME = "manifest.json"
SCHEMA_VERSION: Literal["pdp.manifest/1"] = "pdp.manifest/1"


class StageRecord(Record):
    """A finished stage: the hash of everything it read, the hash of everything it wrote."""

    input_sha256: str
    output_sha256: str
    finished_utc: str
    versions: Mapping[str, str]
    result: StageResult


class ArtifactRecord(Record):
    """A written model file, its path relative to the run directory."""

    target: str
    role: Literal["pruned", "dense"]
    path: str
    bytes: int
    sha256: str
    format: str
    precision: str
    encoding: str
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    metadata: Mapping[str, str]


class Manifest(Record):
    """The whole of manifest.json. `stages` holds only stages that are finished.

    `sources` are the sha256 of the user's own files (factories, loss, metric, weights).
    """

    schema_version: Literal["pdp.manifest/1"] = SCHEMA_VERSION
    created_utc: str
    tool_version: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    command: str
    seed: int
    recipe_sha256: str
    sources: Mapping[str, str] = Field(default_factory=dict)
    environment: Mapping[str, Any]
    stages: Mapping[str, StageRecord] = Field(default_factory=dict)
    artifacts: tuple[ArtifactRecord, ...] = ()

    def with_stage(self, name: str, record: StageRecord, artifacts: Sequence[ArtifactRecord] = ()) -> Manifest:
        """Return a copy in which `name` is finished; new `artifacts` replace the old ones."""
        return self.model_copy(
            update={"stages": {**self.stages, name: record}, "artifacts": tuple(artifacts) or self.artifacts}
        )

    def without_stages(self, names: Sequence[str]) -> Manifest:
        """Return a copy in which none of `names` is finished."""
        return self.model_copy(update={"stages": {k: v for k, v in self.stages.items() if k not in names}})


def write(manifest: Manifest, folder: Path) -> None:
    """Write manifest.json atomically."""
    files.write_text(folder / FILE_NAME, manifest.model_dump_json(indent=2) + "\n")


def read(folder: Path) -> Manifest:
    """Read manifest.json.

    Raises:
        RunDirectoryError: when it is missing, damaged, or of another version.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise RunDirectoryError(
            f"{folder.name} is not a run directory: it has no {FILE_NAME}",
            where=folder.name,
            hint="give the directory that prune-and-convert wrote",
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunDirectoryError(
            f"{FILE_NAME} is damaged or of another version: {error.errors()[0]['msg']}",
            where=folder.name,
            hint="start again in another --output",
        ) from error
