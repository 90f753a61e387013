"""Files on disk: whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp_export import files
from pdp_export.errors import FileError


def _names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def _tree(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_file_appears_under_its_final_name_only(tmp_path: Path):
    """Pins a temporary that is left beside the file, or a suffix that a writer does not find."""
    final = tmp_path / "new" / "model.onnx"
    with files.atomic_path(final) as temporary:
        assert temporary.suffix == ".onnx"
        assert temporary.parent == final.parent
        temporary.write_bytes(b"whole")
        assert not final.exists()
    assert final.read_bytes() == b"whole"
    assert _names(final.parent) == ["model.onnx"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, error: type[BaseException]):
    """Pins a good file that is lost, or half a file that stays, when a writer fails or Ctrl-C is pressed."""
    final = _tree(tmp_path, {"model.onnx": b"old"}) / "model.onnx"

    def write() -> None:
        with files.atomic_path(final) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert final.read_bytes() == b"old"
    assert _names(tmp_path) == ["model.onnx"]


def test_an_exception_keeps_the_old_directory(tmp_path: Path):
    """Pins a package that is deleted before its successor is whole."""
    final = _tree(tmp_path / "model.mlpackage", {"a/weights": b"old"})

    def write() -> None:
        with files.atomic_path(final) as temporary:
            _tree(temporary, {"b/weights": b"half"})
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write()
    assert (final / "a" / "weights").read_bytes() == b"old"
    assert _names(tmp_path) == ["model.mlpackage"]


def test_a_directory_replaces_a_directory_and_a_file(tmp_path: Path):
    """Pins old members that survive inside a new package."""
    final = _tree(tmp_path / "model.mlpackage", {"old": b"1", "deep/old": b"2"})
    with files.atomic_path(final) as temporary:
        _tree(temporary, {"new": b"3"})
    assert _names(final) == ["new"]
    files.remove(final)
    final.write_bytes(b"a file")
    with files.atomic_path(final) as temporary:
        _tree(temporary, {"new": b"4"})
    assert (final / "new").read_bytes() == b"4"


def test_a_leftover_of_a_killed_run_is_swept_away(tmp_path: Path):
    """Pins a half-written member of an earlier, killed run inside a new package."""
    final = tmp_path / "model.mlpackage"
    _tree(tmp_path / ".model.partial.mlpackage", {"stale": b"x"})
    with files.atomic_path(final) as temporary:
        assert not temporary.exists()
        _tree(temporary, {"new": b"y"})
    assert _names(final) == ["new"]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path):
    """Pins a library that returns without a file and is believed."""

    def write() -> None:
        with files.atomic_path(tmp_path / "model.onnx"):
            pass

    with pytest.raises(FileNotFoundError):
        write()
    assert _names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    """Pins "unexpected OSError" for the commonest accident, a full disk or quota, while flushing."""
    final = _tree(tmp_path, {"report.json": b"old"}) / "report.json"

    def flush(_: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "_flush", flush)
    with pytest.raises(FileError, match=r"the disk is full: report\.json needs more than") as caught:
        files.write_text(final, "new")
    assert "--resume" in str(caught.value.hint)
    assert isinstance(caught.value.__cause__, OSError)
    assert final.read_bytes() == b"old"
    assert _names(tmp_path) == ["report.json"]


def test_another_error_of_the_system_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pins every failure reported as a full disk."""

    def flush(_: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(files, "_flush", flush)
    with pytest.raises(OSError, match="input/output error"):
        files.write_text(tmp_path / "report.json", "new")
    assert _names(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a real file system of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if not mount or not unmount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tiny file system needs Linux and root")
    yield folder
    subprocess.run([unmount, str(folder)], check=True)


def _bytes(path: Path) -> None:
    path.write_bytes(b"x" * 1_000_000)


def _numpy(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.ones(200_000))


def _safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.ones(200_000)}, path)


def _torch(path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(200_000)}, path)


@pytest.mark.parametrize("write", [_bytes, _numpy, _safetensors, _torch])
def test_a_really_full_disk_is_told_whatever_the_library_raises(tiny_disk: Path, write: Callable[[Path], None]):
    """Pins torch, numpy and safetensors, which hide ENOSPC behind errors of their own."""
    (tiny_disk / "model.bin").write_bytes(b"old")

    def save() -> None:
        with files.atomic_path(tiny_disk / "model.bin") as temporary:
            write(temporary)

    with pytest.raises(FileError, match=r"the disk is full: model\.bin needs more than 0\.[23] MB"):
        save()
    assert (tiny_disk / "model.bin").read_bytes() == b"old"
    assert _names(tiny_disk) == ["model.bin"]
    files.write_text(tiny_disk / "model.bin", "it fits")
    assert (tiny_disk / "model.bin").read_bytes() == b"it fits"


_KILL_AT = {
    "while writing": "",
    "between write and rename": "files._flush_tree = lambda path: os.kill(os.getpid(), signal.SIGKILL)",
    "at the rename": "Path.replace = lambda self, other: os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("moment", _KILL_AT)
def test_kill_9_leaves_the_old_file_whole_and_a_second_try_succeeds(tmp_path: Path, moment: str):
    """Pins a file that is half new after kill -9, or a leftover that blocks the next run."""
    final = _tree(tmp_path, {"model.onnx": b"old"}) / "model.onnx"
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom pdp_export import files\n"
        f"{_KILL_AT[moment]}\n"
        "with files.atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'new' * 1000)\n"
        f"    {'os.kill(os.getpid(), signal.SIGKILL)' if not _KILL_AT[moment] else 'pass'}\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(final)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert final.read_bytes() == b"old"
    with files.atomic_path(final) as temporary:
        temporary.write_bytes(b"new")
    assert final.read_bytes() == b"new"
    assert _names(tmp_path) == ["model.onnx"]


def test_remove_takes_the_link_and_not_what_it_points_to(tmp_path: Path):
    """Pins a clean-up that follows a symbolic link out of the run directory."""
    precious = _tree(tmp_path / "precious", {"file": b"x"})
    link = tmp_path / "link"
    link.symlink_to(precious)
    files.remove(link)
    files.remove(tmp_path / "absent")
    assert not link.is_symlink()
    assert (precious / "file").exists()


_CONTENTS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=4)


@given(one=_CONTENTS, other=_CONTENTS)
def test_the_hash_of_a_package_changes_with_contents_and_names(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], other: dict[str, bytes]
):
    """Pins a renamed or swapped member that goes unnoticed, so that a stale output counts as finished."""
    folder = tmp_path_factory.mktemp("hash")
    first, second = _tree(folder / "first", one), _tree(folder / "second", other)
    assert (files.sha256(first) == files.sha256(second)) == (one == other)
    assert files.size_bytes(first) == sum(map(len, one.values()))


def test_the_boundary_between_members_counts(tmp_path: Path):
    """Pins a hash over the plain concatenation: bytes moved from one member to the next stay unnoticed."""
    one = _tree(tmp_path / "one", {"a": b"1", "b": b"23"})
    other = _tree(tmp_path / "other", {"a": b"12", "b": b"3"})
    shifted = _tree(tmp_path / "shifted", {"a": b"1b\x0023"})
    assert len({files.sha256(folder) for folder in (one, other, shifted)}) == 3


def test_the_hash_of_a_file_is_the_common_sha256(tmp_path: Path):
    """Pins a hash that sha256sum does not confirm."""
    path = _tree(tmp_path, {"f": b"abc"}) / "f"
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sizes_add_up_over_a_package(tmp_path: Path):
    """Pins the size of a directory entry in place of the size of its files."""
    package = _tree(tmp_path / "p", {"a": b"0" * 1000, "deep/b": b"1" * 500})
    assert files.size_bytes(package) == 1500
    assert files.size_bytes(tmp_path / "absent") == 0
    assert 0 < files.gzip_bytes(package) < 200
    assert files.gzip_bytes(package) == files.gzip_bytes(package)
