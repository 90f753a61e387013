"""Files on disk: written whole or not at all, and identified by their bytes."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdp_export.errors import FileError

_CHUNK = 1 << 20
_NO_SPACE_BYTES = 1 << 14


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside `final`; on success flush it to the disk and rename it.

    Works for a file and for a directory. On any exception the temporary is deleted and `final` is
    untouched. A directory that exists under the final name is moved aside and then deleted, so that no
    kill leaves a part of it there. The temporary name keeps the suffix, since some writers insist on it.
    A companion (see `companion_of`) that lies beside the temporary goes with it.

    Raises:
        FileError: when the disk is full, naming the room there was.
    """
    temporary, replaced = partial_of(final), final.with_name(f".{final.stem}.replaced{final.suffix}")
    _remove_both(temporary)
    remove(replaced)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        _flush_tree(temporary)
        if final.is_dir() or (final.exists() and temporary.is_dir()):
            final.replace(replaced)
        _move_companion(temporary, final)
        temporary.replace(final)
        _flush(final.parent)
        remove(replaced)
    except BaseException as error:
        room = shutil.disk_usage(final.parent).free
        written = size_bytes(temporary)
        _remove_both(temporary)
        if isinstance(error, Exception) and _is_disk_full(error, room):
            raise _disk_full(final, room + written) from error
        raise


def partial_of(final: Path) -> Path:
    """Return the temporary path that `atomic_path` uses for `final`; a kill may leave it behind."""
    return final.with_name(f".{final.stem}.partial{final.suffix}")


def final_name(path: Path) -> str:
    """Return the name that a path has once every `atomic_path` around it is through."""
    stem, mark = path.stem, ".partial"
    while stem.startswith(".") and stem.endswith(mark):
        stem = stem[1:].removesuffix(mark)
    return f"{stem}{path.suffix}"


def companion_of(path: Path) -> Path:
    """Return where the weights of an .onnx file lie that one file cannot hold."""
    return path.with_name(f"{path.name}.data")


def write_text(final: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(final) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Delete a file or a directory tree if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def members(path: Path) -> list[Path]:
    """Return the file itself with its companion, or all files of a package in a stable order."""
    if path.is_dir():
        return sorted(item for item in path.rglob("*") if item.is_file())
    return [path, *([companion_of(path)] if _has_companion(path) else [])]


def size_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files of a package together; 0 where there is none."""
    return sum(item.stat().st_size for item in members(path) if item.is_file())


def gzip_bytes(path: Path) -> int:
    """Return the bytes after gzip -6, member by member (what a zipped app package would hold)."""
    return sum(len(gzip.compress(item.read_bytes(), 6, mtime=0)) for item in members(path))


def sha256(path: Path) -> str:
    """Return the sha256 of a file; of a package, the hash over sorted names, sizes and contents."""
    digest = hashlib.sha256()
    for item in members(path):
        if path.is_dir():
            digest.update(f"{item.relative_to(path).as_posix()}\0{item.stat().st_size}\0".encode())
        with item.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _has_companion(path: Path) -> bool:
    return path.suffix == ".onnx" and companion_of(path).is_file()


def _move_companion(temporary: Path, final: Path) -> None:
    """Bring the companion to its final name before the file that names it; one of a file that is replaced goes."""
    if _has_companion(final):
        final.unlink(missing_ok=True)  # a kill must not leave the old file with other weights, or with none
        companion_of(final).unlink()
    if _has_companion(temporary):
        companion_of(temporary).replace(companion_of(final))


def _remove_both(path: Path) -> None:
    if _has_companion(path):
        companion_of(path).unlink()
    remove(path)


def _is_disk_full(error: Exception, room: int) -> bool:
    """Whether `error` came from a full disk: few libraries pass errno on, torch and numpy do not even say it."""
    known = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    return known or os.strerror(errno.ENOSPC) in str(error) or room < _NO_SPACE_BYTES


def _disk_full(path: Path, room: int) -> FileError:
    return FileError(
        f"the disk is full: {path.name} needs more than {room / 1e6:.1f} MB; nothing was left under the final name",
        where=path.name,
        hint="free some space or choose another --output, then run again with --resume",
    )


def _flush_tree(path: Path) -> None:
    for item in members(path):
        _flush(item)
    if path.is_dir():
        _flush(path)


def _flush(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return  # Windows has no handle of a directory to flush.
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
