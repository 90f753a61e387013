"""The outer layer of a .pt2 archive: which files the zip holds, under which names, how large."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO

from pdp_export.errors import FileError, UnsafeFileError

PROGRAM = "models/model.json"
WEIGHTS_CONFIG = "data/weights/model_weights_config.json"
CONSTANTS_CONFIG = "data/constants/model_constants_config.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"

_REQUIRED = {"archive_format", "archive_version", PROGRAM, WEIGHTS_CONFIG, CONSTANTS_CONFIG, SAMPLE_INPUTS}
_KNOWN = _REQUIRED | {"byteorder", ".data/version", ".data/serialization_id", ".format_version", ".storage_alignment"}
_PAYLOAD = re.compile(r"data/(weights/weight_|constants/tensor_)\d{1,9}")
_EXTRA = re.compile(r"extra/[\w.\-]+")
_RUNS_CODE = {
    "data/aotinductor/": "compiled native code",
    "data/executorch/": "a program for another runtime",
    "data/constants/custom_obj_": "a pickled custom object",
    "data/constants/opaque_obj_": "a pickled object",
    "data/weights/model.pt": "pickled weights",
    "data/constants/model.pt": "pickled constants",
}
_SAFE_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)*")


def check_entries(data: bytes, name: str) -> str:
    """Check the entries of the archive and return the name of its root folder.

    Everything is allowed by name or refused: entries are stored uncompressed (as torch writes them),
    together not larger than the file, unique, inside one root folder, and each is known.

    Raises:
        FileError: not a .pt2 archive, or truncated, or damaged.
        UnsafeFileError: an entry that leads out of the archive, or that would run code.
    """
    entries = _read_directory(data, name)
    _check_names_and_sizes(entries, len(data), name)
    root = entries[0].filename.split("/", 1)[0]
    inner = {entry.filename.removeprefix(f"{root}/") for entry in entries}
    for entry in sorted(inner):
        for prefix, what in _RUNS_CODE.items():
            if entry.startswith(prefix):
                raise _unsafe(f"{name} holds {what}; it was not executed", name, entry)
    missing = sorted(_REQUIRED - inner)
    if missing:
        raise FileError(
            f"{name} is no .pt2 archive of this torch version: it lacks {missing[0]}",
            where=name,
            hint="give a file written by pdp-export or by torch.export.save",
        )
    for entry in sorted(inner - _KNOWN):
        if not _PAYLOAD.fullmatch(entry) and not _EXTRA.fullmatch(entry):
            raise _unsafe(f"{name} holds an entry that no captured program has; it was not opened", name, entry)
    return root


def check_nested_entries(data: bytes, name: str) -> None:
    """Check the zip that torch.save wrote for the sample inputs: safe names, stored, not larger than itself."""
    _check_names_and_sizes(_read_directory(data, name), len(data), name)


def entry_sizes(data: bytes, root: str) -> dict[str, int]:
    """Return the bytes of every entry by its name inside the root folder."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {entry.filename.removeprefix(f"{root}/"): entry.file_size for entry in archive.infolist()}


def _read_directory(data: bytes, name: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise FileError(
            f"{name} is truncated or no .pt2 archive ({error})", where=name, hint="give a file that ends in .pt2"
        ) from error
    if not entries:
        raise FileError(f"{name} is an empty archive", where=name, hint="write it again")
    return entries


def _check_names_and_sizes(entries: list[zipfile.ZipInfo], file_bytes: int, name: str) -> None:
    root = entries[0].filename.split("/", 1)[0]
    seen: set[str] = set()
    for entry in entries:
        path = entry.filename
        if not _SAFE_NAME.fullmatch(path) or ".." in path.split("/") or not path.startswith(f"{root}/"):
            raise _unsafe(f"{name} holds an entry whose path leads out of the archive", name, path)
        # torch finds entries without regard to case: two such names would let it read another than we checked.
        if path.lower() in seen:
            raise _unsafe(f"{name} holds the same entry twice", name, path)
        seen.add(path.lower())
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise _unsafe(f"{name} holds a compressed entry, which torch never writes", name, path)
    total = sum(entry.file_size for entry in entries)
    if total > file_bytes:
        raise _unsafe(
            f"{name} claims {total} bytes of content in a file of {file_bytes} bytes", name, entries[0].filename
        )


def _unsafe(what: str, name: str, entry: str) -> UnsafeFileError:
    return UnsafeFileError(what, where=f"{name}: {entry!r}", hint="do not open this file with torch.export.load either")
