"""Ctrl-C: exit code 130, a message that says what is saved, and --resume that ends with the same weights."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from random import Random

import pytest

from pdp_export.pipeline.stages import NAMES
from tests.pipeline import doom, forks
from tests.pipeline.conftest import CommandLine, real_command, write_recipe
from tests.pipeline.doom import Moment
from tests.pipeline.prints import assert_clean, events_of, fingerprint

SAVED = "everything finished so far is saved"


def test_the_real_command_in_training(tmp_path: Path, finished: Path, cli: CommandLine):
    """Pins an hour of training lost by Ctrl-C, and an exit code that a script takes for success."""
    recipe, run = write_recipe(tmp_path / "work"), tmp_path / "run"
    arguments = ("prune", "--recipe", recipe, "-o", run)
    command = real_command(*arguments, cwd=tmp_path, TINY_PAUSE_S="0.005")
    for _ in range(forks.LIMIT_S * 10):
        if list(run.glob("checkpoints/prune/*/step-*")):
            break
        time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert (command.returncode, out) == (130, ""), err
    assert err.splitlines()[-3:] == [
        f"Error: interrupted in stage 3/9 prune; {SAVED}", "  where: run", "  next:  go on with --resume"
    ]  # fmt: skip
    assert list(run.glob("checkpoints/prune/*/step-*"))
    assert cli(*arguments, "--resume").code == 0
    weights = "stages/04-harden/model.safetensors"
    assert (run / weights).read_bytes() == (finished / weights).read_bytes()


def test_in_the_middle_of_a_conversion(tmp_path: Path, copied: Path, cli: CommandLine):
    """Pins a Ctrl-C that waits for a converter to finish, or leaves it running."""
    run = copied / "out"
    moment = Moment("convert", "event", events_of(copied)["convert"] // 2, signal.SIGINT)
    before = (doom.watch_command, run, moment, tmp_path / "notes")
    arguments = ("prune-and-convert", "--recipe", copied / "recipe.yaml", "-o", run, "--from-stage", "convert")
    start = time.monotonic()
    done = cli(*arguments, before=before)
    assert done.code == 130, done.err
    assert f"interrupted in stage 6/9 convert; {SAVED}" in done.err
    assert time.monotonic() - start < 50, "the child sleeps for a minute"
    pid = int((tmp_path / "notes").read_text(encoding="utf-8").split()[0])
    assert forks.gone(pid)
    assert not [path for path in run.rglob("*") if ".partial" in path.name]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
def test_in_every_stage(tmp_path: Path, reference: tuple[Path, object], cli: CommandLine, seed: int):
    """Pins a stage that swallows Ctrl-C, dies without a message, or cannot go on afterwards."""
    recipe, run, random = write_recipe(tmp_path / "work"), tmp_path / "run", Random(seed)
    arguments = ("prune-and-convert", "--recipe", recipe, "-o", run, "--resume")
    for index, stage in enumerate(NAMES, 1):
        moment = Moment(stage, "event", random.randrange(events_of(reference[0])[stage]), signal.SIGINT)
        done = cli(*arguments, before=(doom.watch_command, run, moment, tmp_path / "notes"))
        if done.code != doom.MISSED:
            assert done.code == 130, (moment, done.err)
            assert f"interrupted in stage {index}/9 {stage}; {SAVED}" in done.err, moment
    assert cli(*arguments).code == 0
    assert fingerprint(run) == fingerprint(reference[0] / "out")
    assert_clean(run)
