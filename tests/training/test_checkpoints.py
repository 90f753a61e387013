"""Checkpoint files: whole or passed over, never executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from pdp_export.errors import FileError
from pdp_export.training.checkpoints import Checkpoints, Snapshot

IDENTITY = {"seed": 1, "lr": 0.1}


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (Path("exploded").touch, ())


def snapshot(value: float) -> Snapshot:
    return Snapshot({"model/weight": torch.full((64,), value)}, {"epoch": int(value)})


def filled(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, IDENTITY)
    for step in steps:
        checkpoints.save(step, snapshot(float(step)))
    return checkpoints


def test_round_trip_keeps_bits_and_json(tmp_path):
    """Shared storage, views and every dtype must come back exactly as they were."""
    base = torch.randn(4, 6)
    tensors = {
        "a": base,
        "b": base.t(),
        "c": torch.tensor(3),
        "d": torch.randn(3).bfloat16(),
        "e": torch.tensor([True]),
    }
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(5, Snapshot(tensors, {"x": [0.1, None, "y"]}))
    found = checkpoints.latest()
    assert found is not None
    assert found.meta == {"x": [0.1, None, "y"]}
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())


def test_only_the_last_two_are_kept(tmp_path):
    """A long run must not fill the disk, and one damaged file must not be the only one."""
    filled(tmp_path, 1, 2, 10, 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000010"]


def test_no_checkpoint_is_a_fresh_start(tmp_path):
    """An empty or missing folder means step 0, not an error."""
    assert Checkpoints(tmp_path / "absent", IDENTITY).latest() is None


def _truncate(path: Path) -> None:
    file = path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def _flip(path: Path) -> None:
    file = path / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def _pickle(path: Path) -> None:
    (path / "tensors.safetensors").write_bytes(pickle.dumps(Bomb()))
    (path / "state.json").write_bytes(pickle.dumps(Bomb()))


def _pickle_with_right_hash(path: Path) -> None:
    from pdp_export.files import sha256

    (path / "tensors.safetensors").write_bytes(pickle.dumps(Bomb()))
    state = json.loads((path / "state.json").read_text())
    state["sha256"] = sha256(path / "tensors.safetensors")
    (path / "state.json").write_text(json.dumps(state))


def _foreign(path: Path) -> None:
    state = json.loads((path / "state.json").read_text())
    state["identity"]["seed"] = 2
    (path / "state.json").write_text(json.dumps(state))


def _other_program(path: Path) -> None:
    (path / "state.json").write_text('["something else"]')


def _lost(path: Path) -> None:
    (path / "state.json").unlink()


DAMAGES = [_truncate, _flip, _pickle, _pickle_with_right_hash, _foreign, _other_program, _lost]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch, damage):
    """A truncated, foreign or hostile file costs the steps since the last good one, nothing more."""
    monkeypatch.chdir(tmp_path)
    filled(tmp_path / "run", 1, 2)
    damage(tmp_path / "run" / "step-00000002")
    checkpoints = Checkpoints(tmp_path / "run", IDENTITY)
    found = checkpoints.latest()
    assert found is not None
    assert found.meta == {"epoch": 1}
    assert "step-00000002" in checkpoints.warnings[0]
    assert not Path("exploded").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_usable_checkpoint_is_an_error(tmp_path, damage):
    """Starting over in silence would overwrite what the user hoped to resume."""
    filled(tmp_path, 2)
    damage(tmp_path / "step-00000002")
    with pytest.raises(FileError, match="no checkpoint can be used"):
        Checkpoints(tmp_path, IDENTITY).latest()


def test_leftovers_of_a_killed_write_are_ignored_and_removed(tmp_path):
    """Kill -9 between write and rename leaves a partial folder; it must not be taken for a checkpoint."""
    checkpoints = filled(tmp_path, 1)
    (tmp_path / ".step-00000002.partial").mkdir()
    (tmp_path / ".step-00000002.partial" / "tensors.safetensors").write_bytes(b"half")
    found = checkpoints.latest()
    assert found is not None
    assert found.meta == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_full_disk_leaves_the_older_checkpoints(tmp_path, monkeypatch):
    """A failed write must name the disk and leave the last good checkpoint alone."""
    checkpoints = filled(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="disk is full"):
        checkpoints.save(2, snapshot(2.0))
    monkeypatch.undo()
    found = checkpoints.latest()
    assert found is not None
    assert found.meta == {"epoch": 1}
