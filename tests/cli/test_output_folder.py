"""The folder a run is written into: whose it is, and that nothing in it is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdp_export.pipeline import api, manifest
from pdp_export.pipeline.manifest import Manifest
from pdp_export.pipeline.run_directory import opened
from pdp_export.recipe import Recipe


def _snapshot(folder: Path) -> dict[str, bytes]:
    files = sorted(item for item in folder.rglob("*") if item.is_file())
    return {item.relative_to(folder).as_posix(): item.read_bytes() for item in files}


@pytest.fixture
def run_folder(tmp_path: Path, project: Path) -> Path:
    """Return a run directory that was begun with the project's recipe, without running a stage."""
    folder = tmp_path / "run"
    with opened(folder, Recipe.load(project / "recipe.yaml"), resume=False, force=False):
        book = Manifest(
            created_utc="2026-01-01T00:00:00+00:00", tool_version="0", command="test", seed=0, recipe_sha256="",
            environment={},
        )  # fmt: skip
        manifest.write(book, folder)
    (folder / "stages").mkdir()
    (folder / "stages" / "result").write_text("hours of training", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _no_stage_runs(monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> Manifest:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run_stages", stop)


def _run(pdp: Callable[..., Any], project: Path, output: Path, *flags: str) -> Any:
    return pdp("prune-and-convert", "--recipe", project / "recipe.yaml", "--output", output, *flags)


@pytest.mark.parametrize("flags", [[], ["--force"], ["--resume"], ["--only", "bench"]])
def test_a_folder_that_holds_something_else_is_refused_untouched(
    pdp: Callable[..., Any], project: Path, tmp_path: Path, flags: list[str]
):
    """Pins a lock file, a recipe, or --force emptying a folder of holiday pictures."""
    other = tmp_path / "pictures"
    (other / "2024").mkdir(parents=True)
    (other / "2024" / "sea.jpg").write_bytes(b"sea")
    ended = _run(pdp, project, other, *flags)
    assert (ended.code, ended.out) == (2, "")
    assert "pictures is not empty and is no run directory (it holds '2024')" in ended.err
    assert _snapshot(other) == {"2024/sea.jpg": b"sea"}


@pytest.mark.parametrize("flags", [[], ["--force"], ["--resume"]])
def test_the_project_itself_is_no_run_directory(pdp: Callable[..., Any], project: Path, flags: list[str]):
    """Pins `--output . --force` beside one's own recipe.yaml, which would delete task.py."""
    before = _snapshot(project)
    assert _run(pdp, project, project, *flags).code == 2
    assert _snapshot(project) == before


def test_a_folder_with_only_the_users_recipe_keeps_its_comments(pdp: Callable[..., Any], project: Path, tmp_path: Path):
    """Pins a commented recipe overwritten by the effective one."""
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(project / "recipe.yaml", lone)
    before = _snapshot(lone)
    assert _run(pdp, project, lone, "--force").code == 2
    assert _snapshot(lone) == before


@pytest.mark.parametrize("flags", [[], ["--force"]])
def test_a_file_in_the_place_of_the_folder_is_refused(
    pdp: Callable[..., Any], project: Path, tmp_path: Path, flags: list[str]
):
    """Pins "unexpected FileExistsError" for a file given as --output."""
    (tmp_path / "taken").write_text("text", encoding="utf-8")
    ended = _run(pdp, project, tmp_path / "taken", *flags)
    assert ended.code == 2
    assert "taken is a file, not a directory" in ended.err
    below = _run(pdp, project, tmp_path / "taken" / "below", *flags)
    assert below.code in {1, 2}
    assert "fault of pdp-export" not in below.err
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "text"


def test_another_run_is_kept_unless_resumed_or_forced(pdp: Callable[..., Any], project: Path, run_folder: Path):
    """Pins a second run that mixes with the first, or silently replaces it."""
    before = _snapshot(run_folder)
    ended = _run(pdp, project, run_folder)
    assert ended.code == 2
    assert all(word in ended.err for word in ("run already holds a run", "--resume", "--force"))
    assert _snapshot(run_folder) == before
    assert _run(pdp, project, run_folder, "--resume").code == 130
    assert (run_folder / "stages" / "result").exists()
    assert _run(pdp, project, run_folder, "--force").code == 130
    assert not (run_folder / "stages").exists()


@pytest.mark.parametrize("name", ["stages/01-check/summary.json", "artifacts/model.onnx", "notes.txt"])
def test_a_run_without_a_finished_stage_is_taken_only_where_nothing_can_be_lost(
    pdp: Callable[..., Any], project: Path, run_folder: Path, name: str
):
    """Pins a folder taken for an empty run, with somebody's notes in it or the output of a stage that was struck."""
    shutil.rmtree(run_folder / "stages")
    assert _run(pdp, project, run_folder).code == 130
    (run_folder / name).parent.mkdir(parents=True, exist_ok=True)
    (run_folder / name).write_text("kept", encoding="utf-8")
    before = _snapshot(run_folder)
    ended = _run(pdp, project, run_folder)
    assert ended.code == 2
    assert f"{run_folder} already holds a run" in ended.err
    assert _snapshot(run_folder) == before


def test_force_keeps_the_weights_that_it_is_to_start_from(pdp: Callable[..., Any], project: Path, run_folder: Path):
    """Pins `--weights RUN/... --output RUN --force`, which deletes the trained weights and then misses them."""
    weights = run_folder / "stages" / "model.safetensors"
    weights.write_bytes(b"trained")
    ended = _run(pdp, project, run_folder, "--force", "--weights", str(weights))
    assert ended.code == 2
    assert "--force would delete model.safetensors" in ended.err
    assert weights.read_bytes() == b"trained"
    assert (run_folder / manifest.FILE_NAME).exists()


def test_a_run_killed_before_its_manifest_can_be_begun_again(pdp: Callable[..., Any], project: Path, tmp_path: Path):
    """Pins a folder that nothing can be done with but delete, after kill -9 in the first moment."""
    folder = tmp_path / "begun"
    assert _run(pdp, project, folder).code == 130
    assert [item.name for item in folder.iterdir() if item.name != ".lock"] == ["recipe.yaml"]
    assert _run(pdp, project, folder, "--resume").code == 130


@pytest.mark.parametrize("flag", ["--only", "--from-stage"])
def test_an_unknown_stage_is_refused_before_anything_is_written(
    pdp: Callable[..., Any], project: Path, tmp_path: Path, flag: str
):
    """Pins a typo in a stage's name that leaves a new folder behind."""
    ended = _run(pdp, project, tmp_path / "new", flag, "benh")
    assert ended.code == 2
    assert "unknown stage 'benh' (did you mean 'bench'?)" in ended.err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is a POSIX one")
def test_two_processes_never_share_a_run(pdp: Callable[..., Any], project: Path, run_folder: Path):
    """Pins two resumes of one run that overwrite each other's checkpoints, and a lock that outlives kill -9."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom pdp_export.pipeline.run_directory import opened\n"
        "from pdp_export.recipe import Recipe\n"
        "with opened(Path(sys.argv[1]), Recipe.load(sys.argv[2]), resume=True, force=False):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", code, str(run_folder), str(project / "recipe.yaml")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        ended = _run(pdp, project, run_folder, "--resume")
        assert ended.code == 2
        assert "another process is working in run" in ended.err
        assert _run(pdp, project, run_folder, "--force").code == 2
        assert (run_folder / "stages" / "result").exists()
        other.kill()
    time.sleep(0.1)
    assert _run(pdp, project, run_folder, "--resume").code == 130


@pytest.mark.parametrize("text", ["", "{", "{}", '{"schema_version": "pdp.manifest/99"}', "\x80"])
def test_a_damaged_or_future_manifest_is_told(pdp: Callable[..., Any], run_folder: Path, text: str):
    """Pins a validation error of pydantic for a manifest that broke off or comes from a later version."""
    (run_folder / manifest.FILE_NAME).write_text(text, encoding="latin-1")
    ended = pdp("validate", run_folder)
    assert ended.code == 2
    assert "manifest.json is damaged or of another version" in ended.err
