"""What must be equal after any interruption, and what must never be seen in a run directory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pdp_export import files
from pdp_export.graph.archive import load_program

_PROGRAMS = ("stages/05-remove-channels/model.pt2", "stages/05-remove-channels/dense.pt2")
_FILES = (
    "stages/02-train-dense/model.safetensors", "stages/04-harden/model.safetensors", "artifacts/model.onnx",
    "artifacts/dense/model.onnx",
)  # fmt: skip


def fingerprint(run: Path) -> dict[str, str]:
    """Return a hash of every weight that a run produced, in every form."""
    return {name: files.sha256(run / name) for name in _FILES} | {name: _tensors(run / name) for name in _PROGRAMS}


def events_of(reference: Path) -> dict[str, int]:
    """Return how many events each stage of the finished run in the folder `reference` had."""
    counts: dict[str, int] = json.loads((reference / "events.json").read_text(encoding="utf-8"))
    return counts


def assert_clean(run: Path) -> None:
    """Fail on anything that an interrupted run may leave behind and a finished one may not."""
    left = [path.relative_to(run).as_posix() for path in run.rglob("*") if _left_over(path.name)]
    assert left == []
    assert list(run.glob("checkpoints/*")) == []
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["verdict"] == "PASS"
    assert "</html>" in (run / "report.html").read_text(encoding="utf-8")


def _left_over(name: str) -> bool:
    return ".partial" in name or ".replaced" in name


def assert_whole(run: Path, reference: Path) -> None:
    """Fail on a file that is torn: whatever has a final name is whole, and equal where the reference repeats."""
    for path in run.rglob("*"):
        name = path.relative_to(run).as_posix()
        if path.is_dir() or _left_over(name):
            continue
        if path.suffix == ".json" and not name.startswith("checkpoints"):
            json.loads(path.read_text(encoding="utf-8"))
        if name in _FILES:
            assert files.sha256(path) == files.sha256(reference / name), f"{name} differs"
        if name in _PROGRAMS:
            assert _tensors(path) == _tensors(reference / name), f"{name} differs"
    for stage in (*run.glob("stages/[0-9]*"), run / "artifacts"):
        if stage.is_dir():
            there = {path.relative_to(stage) for path in stage.rglob("*")}
            assert there == {path.relative_to(reference / stage.relative_to(run)) for path in
                             (reference / stage.relative_to(run)).rglob("*")}, f"{stage.name} is not whole"  # fmt: skip


def _tensors(program: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(load_program(program).state_dict.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()
