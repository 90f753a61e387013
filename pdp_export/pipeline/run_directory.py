"""The run directory: who may write into it, and where each stage's output lies."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdp_export import files
from pdp_export.errors import RunDirectoryError
from pdp_export.pipeline import manifest, stages
from pdp_export.recipe import Recipe

RECIPE = "recipe.yaml"
LOG = "log.txt"
LOCK = ".lock"
ORIGIN = ".origin.json"  # where relative paths of the recipe count from: of use on this machine only
_TORN = {files.partial_of(Path(name)).name for name in (RECIPE, ORIGIN, manifest.FILE_NAME)}


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside one run."""

    folder: Path

    @property
    def artifacts(self) -> Path:
        """Where the model files are; the dense ones in its folder ``dense``."""
        return self.folder / "artifacts"

    @property
    def log(self) -> Path:
        """The log of this run, child processes included."""
        return self.folder / LOG

    def checkpoints(self, stage: str) -> Path:
        """Where a training stage keeps its checkpoints until it is finished, in a folder per input hash."""
        return self.folder / "checkpoints" / stage

    def relative(self, path: Path) -> str:
        """Return a path as it may travel: relative to the run directory."""
        return path.relative_to(self.folder).as_posix()


@contextmanager
def opened(folder: Path, recipe: Recipe, *, resume: bool, force: bool) -> Iterator[RunDirectory]:
    """Create a run directory, or open one to go on in it, and hold it alone.

    Nothing is touched in a folder that is no run directory. A run in which no stage was finished, refused by its first
    one for example, is begun again with whatever recipe; its log is kept.

    Raises:
        RunDirectoryError: when the folder holds another run (without `resume` or `force`), something else than a
            run, or another process is working in it.
    """
    refuse_strangers(folder, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder):
        entries = _entries(folder)
        if entries and force:
            _refuse_to_delete(folder, recipe)
            # The manifest goes last: a --force that is killed leaves a run directory, not a stranger's folder.
            for item in sorted(entries, key=lambda entry: entry.name == manifest.FILE_NAME):
                files.remove(item)
        elif entries and not resume and not _holds_no_result(folder, entries):
            raise RunDirectoryError(
                f"{_shown(folder)} already holds a run",
                where="--output",
                hint="go on with --resume, start over with --force, or choose another --output",
            )
        if not (folder / manifest.FILE_NAME).exists():
            files.write_text(folder / RECIPE, recipe.effective_yaml())
        yield RunDirectory(folder)


def saved_recipe(folder: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return the effective recipe of a run; its relative paths count from where the original recipe was.

    Raises:
        RunDirectoryError: when the folder is no run directory.
    """
    manifest.read(folder)
    origin = folder / ORIGIN
    if not origin.is_file():
        raise RunDirectoryError(
            f"{folder.name} does not say where its recipe came from (it has no {ORIGIN})",
            where=folder.name,
            hint="run it with its recipe: pdp-export prune-and-convert --recipe ... --output ... --resume",
        )
    base = json.loads(origin.read_text(encoding="utf-8"))["recipe_folder"]
    return Recipe.load(folder / RECIPE, overrides).rebased(folder / base)


def _entries(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.name != LOCK) if folder.is_dir() else []


def refuse_strangers(folder: Path, recipe: Recipe) -> None:
    """Raise RunDirectoryError for a folder that is neither empty nor a run directory; nothing is touched."""
    if folder.exists() and not folder.is_dir():
        raise RunDirectoryError(
            f"{folder.name} is a file, not a directory", where="--output", hint="choose another --output"
        )
    entries = _entries(folder)
    if not entries or (folder / manifest.FILE_NAME).exists() or _was_just_begun(entries, recipe):
        return
    raise RunDirectoryError(
        f"{_shown(folder)} is not empty and is no run directory (it holds {entries[0].name!r})",
        where="--output",
        hint="choose another --output; nothing was touched",
    )


def _shown(folder: Path) -> str:
    """Return the path as it was typed; the place of ``.``, which names nothing."""
    return str(folder if folder.name else folder.resolve())


def _holds_no_result(folder: Path, entries: list[Path]) -> bool:
    """Whether a run ended before its first stage was finished: nothing is there but what begins every run."""
    first = folder / stages.folder_of(stages.STAGES[0])
    begun = {*_TORN, ORIGIN, RECIPE, LOG, manifest.FILE_NAME, first.parent.name}
    if not all(item.name in begun for item in entries):
        return False
    if first.parent.exists() and any(item != files.partial_of(first) for item in first.parent.iterdir()):
        return False
    try:
        return not manifest.read(folder).stages
    except RunDirectoryError:
        return False


def _was_just_begun(entries: list[Path], recipe: Recipe) -> bool:
    """Whether a run was killed before its manifest: only the very recipe we would write is there, or torn files."""
    torn = {*_TORN, ORIGIN}
    return all(
        item.name in torn or (item.name == RECIPE and item.read_bytes() == recipe.effective_yaml().encode())
        for item in entries
    )


def _refuse_to_delete(folder: Path, recipe: Recipe) -> None:
    """Keep weights that the recipe reads out of the very folder that --force empties."""
    weights = recipe.folder / (recipe.model.weights or "")
    if recipe.model.weights and weights.resolve().is_relative_to(folder.resolve()):
        raise RunDirectoryError(
            f"--force would delete {weights.name}, which this run reads",
            where="--weights",
            hint="copy it out of the run directory, or choose another --output",
        )


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the run directory alone; a second process gets an error at once. The lock dies with its process."""
    with (folder / LOCK).open("w") as stream:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunDirectoryError(
                    f"another process is working in {folder.name}",
                    where="--output",
                    hint="wait for it, or choose another --output",
                ) from None
        yield
