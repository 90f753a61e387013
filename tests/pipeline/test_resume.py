"""--resume repeats exactly what a change concerns, and digests damaged checkpoints and a full disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline import doom, forks
from tests.pipeline.conftest import CommandLine, write_recipe
from tests.pipeline.doom import START, Moment
from tests.pipeline.prints import assert_clean, events_of, fingerprint


def _stages_run(recipe: Path, run: Path, folder: Path) -> list[str]:
    notes, log = folder / "notes", folder / "log"
    assert forks.run(doom.run, recipe, run, None, notes, log=log) == 0, log.read_text(encoding="utf-8")
    return [name for name in json.loads(notes.read_text(encoding="utf-8")) if name != START]


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("name", "tiny", []),
        ("name", "renamed", ["report"]),
        ("benchmark.blocks", 5, ["bench", "report"]),
        ("gates.min_size_ratio", 1.1, ["validate", "report"]),
        pytest.param(
            "preprocessing.scale", 127.5, ["check", "convert", "validate", "bench", "report"], marks=pytest.mark.slow
        ),
        pytest.param(
            "pruning.sparsity", 0.6,
            ["check", "prune", "harden", "remove-channels", "convert", "validate", "bench", "report"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "training.lr", 0.04,
            ["train-dense", "prune", "harden", "remove-channels", "convert", "validate", "bench", "report"],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_only_what_a_change_concerns_runs_again(copied: Path, tmp_path: Path, key: str, value: Any, stages: list[str]):
    """Pins a stale file after a change, and an hour of training repeated for another label."""
    recipe = write_recipe(copied, {key: value})
    assert _stages_run(recipe, copied / "out", tmp_path) == stages
    assert_clean(copied / "out")


def test_an_output_that_was_changed_is_made_again(copied: Path, tmp_path: Path, finished: Path):
    """Pins a damaged output that is carried on because its stage is called finished."""
    run = copied / "out"
    (run / "stages/08-bench/latency.json").write_text("{}", encoding="utf-8")
    assert _stages_run(copied / "recipe.yaml", run, tmp_path) == ["bench", "report"]
    assert fingerprint(run) == fingerprint(finished)


@pytest.fixture(scope="module")
def half_pruned(tmp_path_factory: pytest.TempPathFactory, reference: tuple[Path, Any]) -> Path:
    """A folder with a run that was killed in the middle of pruning, with two checkpoints; only to be copied."""
    folder = tmp_path_factory.mktemp("half")
    recipe, log = write_recipe(folder), folder / "log"
    moment = Moment("prune", "event", events_of(reference[0])["prune"] * 3 // 4)
    assert forks.run(doom.run, recipe, folder / "out", moment, folder / "notes", log=log) == -signal.SIGKILL
    assert len(_checkpoints(folder)) == 2
    return folder


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("checkpoints/prune/*/step-*"))


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    half_pruned: Path, tmp_path: Path, finished: Path, cli: CommandLine
):
    """Pins a run that is lost because the power failed while its newest checkpoint was written."""
    work = tmp_path / "work"
    shutil.copytree(half_pruned, work)
    newest = _checkpoints(work)[-1] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    arguments = ("prune", "--recipe", work / "recipe.yaml", "-o", work / "out", "--resume")
    done = cli(*arguments)
    assert done.code == 0, done.err
    assert f"warning: checkpoint {newest.parent.name} was passed over: its tensors are damaged" in done.err
    name = "stages/04-harden/model.safetensors"
    assert (work / "out" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_no_usable_checkpoint_is_an_error_and_not_a_new_start(
    half_pruned: Path, tmp_path: Path, cli: CommandLine, damage: str
):
    """Pins days of training silently begun again, or another run's weights taken for this one's."""
    work = tmp_path / "work"
    shutil.copytree(half_pruned, work)
    for path in _checkpoints(work):
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        state["identity"]["seed"] = 12345
        text = json.dumps(state)
        (path / "state.json").write_text(text[:50] if damage == "truncated" else text, encoding="utf-8")
    done = cli("prune", "--recipe", work / "recipe.yaml", "-o", work / "out", "--resume")
    assert done.code == 1
    assert "no checkpoint can be used" in done.err
    assert ("another run: seed is 12345" if damage == "foreign" else "damaged") in done.err
    assert len(_checkpoints(work)) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)],  # noqa: S607 - found on PATH
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # noqa: S607


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path, finished: Path, cli: CommandLine):
    """Pins torn files under final names, and a run that cannot go on when there is room again."""
    recipe, run, balloon = write_recipe(tmp_path / "work"), small_disk / "run", small_disk / "balloon"
    arguments = ("prune", "--recipe", recipe, "-o", run, "--resume")
    failed = set()
    for free_kb in (16, 64, 160, 300):
        balloon.unlink(missing_ok=True)
        used = sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file())
        balloon.write_bytes(bytes(max(0, (2 << 20) - used - (free_kb << 10))))
        done = cli(*arguments)
        if done.code == 0:
            break
        assert done.code == 1, done.err
        assert "the disk is full" in done.err
        assert "Traceback" not in done.err
        assert [path for path in run.rglob("*") if ".partial" in path.name] == []
        failed.add(done.err.partition("stage ")[2].split(":")[0])
    assert len(failed) >= 2, failed
    balloon.unlink(missing_ok=True)
    assert cli(*arguments).code == 0
    for name in ("stages/02-train-dense/model.safetensors", "stages/04-harden/model.safetensors"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_the_effective_recipe_repeats_the_run(finished: Path):
    """Pins a saved recipe that lacks a key, so that another version of the tool would do something else."""
    from pdp_export.recipe import Recipe

    text = (finished / "recipe.yaml").read_text(encoding="utf-8")
    assert Recipe.load(finished / "recipe.yaml").effective_yaml() == text
    assert yaml.safe_load(text)["training"]["momentum"] == 0.9
