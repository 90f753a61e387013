"""kill -9 at any moment: the run goes on with --resume and ends with the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random, SystemRandom

import pytest

from pdp_export.pipeline.stages import NAMES
from tests.pipeline import doom, forks
from tests.pipeline.conftest import write_recipe
from tests.pipeline.doom import START, Moment
from tests.pipeline.prints import assert_clean, assert_whole, events_of, fingerprint


class Victim:
    """A run that is killed again and again."""

    def __init__(self, folder: Path, reference: Path, seed: int) -> None:
        self.run, self.notes, self._log = folder / "run", folder / "notes", folder / "log"
        self._recipe, self._reference, self._folder = write_recipe(folder / "work"), reference, folder
        self._random = Random(seed)
        self.deaths: list[str] = []
        self.counts = events_of(reference.parent)

    def random_moment(self, stage: str) -> Moment:
        return Moment(stage, "event", self._random.randrange(self.counts[stage]))

    def die(self, moment: Moment) -> None:
        """Go on until `moment`; where a stage went on from a checkpoint and is too short for it, die earlier.

        Nothing happens where the stage is finished, the last kill having come after its record.
        """
        before = self._folder / "before"
        while True:
            shutil.rmtree(before, ignore_errors=True)
            if self.run.exists():
                shutil.copytree(self.run, before)
            code = self.go(moment)
            if code == doom.FINISHED:
                return
            if code != doom.MISSED:
                break
            assert moment.kind == "event", f"{moment} never came"
            shutil.rmtree(self.run)
            if before.exists():
                shutil.copytree(before, self.run)
            moment = Moment(moment.stage, "event", moment.number // 2)
        assert code == -signal.SIGKILL, self._log.read_text(encoding="utf-8")
        pid, _, what = self.notes.read_text(encoding="utf-8").partition(" ")
        assert forks.gone(int(pid)), f"a child outlived the run that was killed at {moment} ({what})"
        assert_whole(self.run, self._reference)
        self.deaths.append(f"{moment.stage}: {moment.kind} {moment.number} ({what})")

    def go(self, moment: Moment | None, *, force: bool = False, from_stage: str | None = None) -> int:
        """Go on, or start over (with `force`, or from a stage), and return the exit code."""
        return forks.run(doom.run, self._recipe, self.run, moment, self.notes, force, from_stage, log=self._log)

    def finish(self) -> None:
        assert self.go(None) == 0, self._log.read_text(encoding="utf-8")
        assert fingerprint(self.run) == fingerprint(self._reference)
        assert_clean(self.run)


@pytest.mark.timeout(900)  # a shared machine may be slow
def test_killed_once_in_every_stage_and_around_renames(tmp_path: Path, finished: Path):
    """Pins any state of any stage that a kill can leave and --resume cannot digest; the seed is in the message."""
    seed = int(os.environ.get("PDP_KILL_SEED", SystemRandom().randrange(1 << 16)))
    victim = Victim(tmp_path, finished, seed)
    # The stages that take longest have theirs in the slow test.
    windows = {
        "train-dense": [Moment("train-dense", "after rename")], "harden": [Moment("harden", "before rename")],
        "validate": [Moment("validate", "after rename")], "report": [Moment("report", "before rename")],
    }  # fmt: skip
    moments = [victim.random_moment(START)]
    for stage in NAMES:
        moments += [victim.random_moment(stage), *windows.get(stage, [])]
    _kill_at(victim, moments, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(3))
def test_killed_three_times_in_every_stage_and_around_every_rename(tmp_path: Path, finished: Path, seed: int):
    """Pins the same at three random moments inside each stage, and on both sides of every rename."""
    victim = Victim(tmp_path, finished, seed)
    moments = [victim.random_moment(START) for _ in range(3)]
    for stage in NAMES:
        moments += [victim.random_moment(stage) for _ in range(3)]
        moments += [Moment(stage, "before rename"), Moment(stage, "after rename")]
    _kill_at(victim, moments, seed)


def _kill_at(victim: Victim, moments: list[Moment], seed: int) -> None:
    try:
        for moment in moments:
            victim.die(moment)
        victim.finish()
    except AssertionError as error:
        raise AssertionError(f"PDP_KILL_SEED={seed}, killed so far: {victim.deaths}\n{error}") from error
    print("\n".join(victim.deaths))


def test_killed_before_the_first_stage(tmp_path: Path, finished: Path):
    """Pins a run directory that is taken for somebody else's because its first files were torn."""
    for number in range(0, events_of(finished.parent)[START], 2):
        victim = Victim(tmp_path / str(number), finished, seed=0)
        victim.die(Moment(START, "event", number))
        victim.die(Moment("check", "event", 0))


def test_killed_while_starting_over(tmp_path: Path, finished: Path):
    """Pins a half-deleted run that neither --force nor --resume accepts any more."""
    victim = Victim(tmp_path, finished, seed=0)
    for number in range(0, 200, 3):
        shutil.rmtree(victim.run, ignore_errors=True)
        shutil.copytree(finished, victim.run)
        if victim.go(Moment(START, "event", number), force=True) == doom.MISSED:
            break
        # Accepted: either it works again from the first stage, or nothing was deleted yet.
        assert victim.go(Moment("check", "event", 0)) in {-signal.SIGKILL, doom.FINISHED}, f"after event {number}"
    assert number > 10, "a deletion of so many entries has more events"


def test_killed_while_cleaning_up_a_finished_stage(tmp_path: Path, finished: Path):
    """Pins gigabytes of checkpoints that stay for ever because their stage is finished."""
    victim = Victim(tmp_path, finished, seed=0)
    victim.die(Moment("train-dense", "event", 0))
    shutil.copytree(victim.run, tmp_path / "begun")
    for number in range(victim.counts["train-dense"] - 4, victim.counts["train-dense"]):
        shutil.rmtree(victim.run)
        shutil.copytree(tmp_path / "begun", victim.run)
        victim.die(Moment("train-dense", "event", number))
        victim.die(Moment("prune", "event", 0))
        assert list(victim.run.glob("checkpoints/train-dense*")) == [], f"after event {number}"


def test_killed_while_repeating_a_stage(tmp_path: Path, finished: Path):
    """Pins a --from-stage that is forgotten: --resume went on with the very output that was to be replaced."""
    victim = Victim(tmp_path, finished, seed=0)
    shutil.copytree(finished, victim.run)
    assert victim.go(Moment("bench", "event", 1), from_stage="bench") == -signal.SIGKILL
    victim.finish()
    assert list(json.loads(victim.notes.read_text(encoding="utf-8"))) == [START, "bench", "report"]


@pytest.mark.skipif(sys.platform != "linux", reason="the child's death with its parent is arranged by Linux")
def test_a_child_whose_parent_died_at_its_start_does_nothing(tmp_path: Path):
    """Pins an orphan that writes into a run directory in which somebody else is going on already."""
    result = tmp_path / "result.json"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    arguments = ("json:dumps", str(result), str(1 << 34), str(dead.pid))
    child = subprocess.run(
        [sys.executable, "-P", "-m", "pdp_export.isolation", *arguments],
        input='{"obj": 1}', text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert child.returncode == 1
    assert not result.exists()
