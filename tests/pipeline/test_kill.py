"""kill -9 at any moment: the run goes on with --resume and ends with the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from random import Random, SystemRandom

import pytest

from pdp_export.pipeline.stages import NAMES
from tests.pipeline import doom, forks
from tests.pipeline.conftest import write_recipe
from tests.pipeline.doom import START, Moment
from tests.pipeline.prints import assert_clean, assert_whole, fingerprint


class Victim:
    """A run that is killed again and again."""

    def __init__(self, folder: Path, reference: Path, seed: int) -> None:
        self.run, self.notes, self._log = folder / "run", folder / "notes", folder / "log"
        self._recipe, self._reference, self._folder = write_recipe(folder / "work"), reference, folder
        self._random = Random(seed)
        self._counts = self._count_events()

    def _count_events(self) -> dict[str, int]:
        """Return the events per stage of an uninterrupted run, which must end like the one of the command line."""
        calm = self._folder / "calm"
        assert forks.run(doom.run, self._recipe, calm, None, self.notes, log=self._log) == 0, self._log.read_text()
        assert fingerprint(calm) == fingerprint(self._reference)
        counts: dict[str, int] = json.loads(self.notes.read_text(encoding="utf-8"))
        return counts

    def random_moment(self, stage: str) -> Moment:
        return Moment(stage, "event", self._random.randrange(self._counts[stage]))

    def die(self, moment: Moment) -> None:
        """Go on until `moment`; where a stage went on from a checkpoint and is too short for it, die earlier."""
        before = self._folder / "before"
        while True:
            shutil.rmtree(before, ignore_errors=True)
            if self.run.exists():
                shutil.copytree(self.run, before)
            code = forks.run(doom.run, self._recipe, self.run, moment, self.notes, log=self._log)
            if code != doom.MISSED:
                break
            assert moment.kind == "event", f"{moment} never came"
            shutil.rmtree(self.run)
            if before.exists():
                shutil.copytree(before, self.run)
            moment = Moment(moment.stage, "event", moment.number // 2)
        assert code == -signal.SIGKILL, self._log.read_text()
        pid, _, self.last = self.notes.read_text(encoding="utf-8").partition(" ")
        assert _gone(int(pid)), f"a child outlived the run that was killed at {moment} ({self.last})"
        assert_whole(self.run, self._reference)

    def finish(self) -> None:
        assert forks.run(doom.run, self._recipe, self.run, None, self.notes, log=self._log) == 0, self._log.read_text()
        assert fingerprint(self.run) == fingerprint(self._reference)
        assert_clean(self.run)


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_killed_once_in_every_stage_and_around_renames(tmp_path: Path, finished: Path):
    """Pins any state of any stage that a kill can leave and --resume cannot digest; the seed is in the message."""
    seed = int(os.environ.get("PDP_KILL_SEED", SystemRandom().randrange(1 << 16)))
    victim = Victim(tmp_path, finished, seed)
    moments = [victim.random_moment(START)]
    for index, stage in enumerate(NAMES):
        moments += [victim.random_moment(stage), Moment(stage, "before rename" if index % 2 else "after rename")]
    _kill_at(victim, moments, seed)


@pytest.mark.slow
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
    done = []
    try:
        for moment in moments:
            victim.die(moment)
            done.append(f"{moment.stage}: {moment.kind} {moment.number} ({victim.last})")
        victim.finish()
        print('\n'.join(done))
    except AssertionError as error:
        raise AssertionError(f"PDP_KILL_SEED={seed}, killed so far:\n" + "\n".join(done) + f"\n{error}") from error
