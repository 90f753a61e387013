"""A run that is killed at an exact moment: the n-th event inside a stage, or around the rename of its output.

Events are what python's audit hooks report about the run directory (opens, renames, deletions), forks of child
processes, steps of the optimizer and progress calls. Forked children share the counter, so a moment may also lie in
the middle of a conversion; then the child kills the run and must die with it.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pdp_export.cli.drawing import Drawing
from pdp_export.pipeline import stages
from pdp_export.pipeline.observer import Silent
from pdp_export.results import StageResult

MISSED, FINISHED = 99, 98
START = "start"
_FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


@dataclass(frozen=True)
class Moment:
    """When to die. `number` counts events from the start of `stage`; "start" is what comes before the first stage."""

    stage: str
    kind: Literal["event", "before rename", "after rename"]
    number: int = 0
    signal: int = signal.SIGKILL


class Watch(Silent):
    """Counts events of the running stage and kills the run at its moment."""

    def __init__(self, folder: Path, moment: Moment | None, notes: Path) -> None:
        self._folder, self._moment, self._notes = str(folder), moment, notes
        self._stage, self._root = START, os.getpid()
        self._counter = mmap.mmap(-1, 8)  # shared with forked children
        self.counts: dict[str, int] = {}
        self._renamed = False
        last = "" if moment is None or moment.stage == START else moment.stage
        self._output = str(folder / stages.folder_of(stages.STAGES[stages.position(last)])) if last else ""

    def audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Receive an audit event of the interpreter."""
        if self._renamed:
            self._die(f"{name} after the rename")
        if name == "os.fork":
            self.event(name)
        elif name in _FILE_EVENTS and str(arguments[0]).startswith(self._folder):
            if name == "os.rename" and str(arguments[1]) == self._output and self._stage == self._moment_stage:
                self._around_rename()
            self.event(f"{name} {str(arguments[0]).removeprefix(self._folder)}")

    def event(self, what: str) -> None:
        """Count one event, and die if it is the one."""
        number = int.from_bytes(self._counter[:8], "little")
        self._counter[:8] = (number + 1).to_bytes(8, "little")
        moment = self._moment
        if moment and moment.kind == "event" and (moment.stage, moment.number) == (self._stage, number):
            self._die(what)

    def stage_started(self, index: int, count: int, name: str) -> None:
        """Count from zero."""
        del index, count
        self._enter(name)

    def stage_skipped(self, index: int, count: int, name: str) -> None:
        """End the process when there is nothing left to kill: the last kill came after the stage was recorded."""
        del index, count
        if name == self._moment_stage:
            os._exit(FINISHED)

    def stage_done(self, index: int, count: int, result: StageResult) -> None:
        """End the process when the stage was survived."""
        del index, count, result
        if self._moment and self._stage == self._moment_stage:
            os._exit(MISSED)

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Count an event."""
        del note
        self.event(f"{what} {done}/{total}")

    def finish(self) -> None:
        """Write down how many events each stage had."""
        self._enter("")
        self._notes.write_text(json.dumps(self.counts), encoding="utf-8")

    @property
    def _moment_stage(self) -> str | None:
        return self._moment.stage if self._moment else None

    def _enter(self, name: str) -> None:
        self.counts[self._stage] = int.from_bytes(self._counter[:8], "little")
        if self._moment_stage == START:
            os._exit(MISSED)
        self._stage, self._counter[:8] = name, bytes(8)

    def _around_rename(self) -> None:
        assert self._moment
        if self._moment.kind == "before rename":
            self._die("os.rename")
        self._renamed = self._moment.kind == "after rename"

    def _die(self, what: str) -> None:
        assert self._moment
        number, self._renamed, self._moment = self._moment.signal, False, None
        self._notes.write_text(f"{os.getpid()} {what}", encoding="utf-8")
        os.kill(self._root, number)
        if os.getpid() != self._root:
            time.sleep(60)  # A child must not outlive the run.
            os._exit(1)


class WatchedDrawing(Drawing):
    """The command line's own observer, with a watch beside it."""

    watch: Watch

    def stage_started(self, index: int, count: int, name: str) -> None:
        """Tell both."""
        self.watch.stage_started(index, count, name)
        super().stage_started(index, count, name)

    def stage_skipped(self, index: int, count: int, name: str) -> None:
        """Tell both."""
        self.watch.stage_skipped(index, count, name)
        super().stage_skipped(index, count, name)

    def stage_done(self, index: int, count: int, result: StageResult) -> None:
        """Tell both."""
        self.watch.stage_done(index, count, result)
        super().stage_done(index, count, result)

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Tell both."""
        self.watch.progress(what, done, total, note)
        super().progress(what, done, total, note)


def run(
    recipe: Path, folder: Path, moment: Moment | None, notes: Path, force: bool = False, from_stage: str | None = None
) -> None:
    """Run, or go on with, the whole pipeline, and die at `moment`; without one, write down the events per stage."""
    from pdp_export.pipeline import api
    from pdp_export.pipeline.runner import Selection

    watch = watched(folder, moment, notes)
    selection = Selection(from_stage=from_stage)
    api.prune_and_convert(recipe, folder, resume=not force, force=force, selection=selection, observer=watch)
    watch.finish()


def watch_command(folder: Path, moment: Moment | None, notes: Path) -> None:
    """Prepare a process so that its command line dies at `moment`, or writes down the events per stage."""
    from pdp_export.cli import drawing

    WatchedDrawing.watch = watched(folder, moment, notes)
    drawing.Drawing = WatchedDrawing  # type: ignore[misc]
    if moment is None:
        atexit.register(WatchedDrawing.watch.finish)


def watched(folder: Path, moment: Moment | None, notes: Path) -> Watch:
    """Return a watch that receives every event of this process."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    watch = Watch(folder, moment, notes)
    sys.addaudithook(watch.audit)
    register_optimizer_step_post_hook(lambda *_: watch.event("optimizer step"))
    return watch
