"""Draws a run on stderr: one line per stage, progress bars on a terminal, nothing on stdout."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from pdp_export.results import StageResult

_TENTH = 10
_SLOW_SECONDS = 2.0


def stderr_console(*, no_color: bool = False) -> Console:
    """Return the console for everything that is not the result."""
    return Console(stderr=True, no_color=no_color or None, highlight=False, markup=False, soft_wrap=True)


def stdout_console(*, no_color: bool = False) -> Console:
    """Return the console for the result."""
    return Console(no_color=no_color or None, highlight=False)


class Drawing:
    """An observer for people. Use it as a context manager.

    On a terminal a bar shows what is running; in CI (the variable CI is set) every tenth of a long
    step is one line; otherwise only the line per stage is printed.
    """

    def __init__(self, *, quiet: bool = False, no_progress: bool = False, no_color: bool = False) -> None:
        self._console = stderr_console(no_color=no_color)
        self._quiet = quiet
        self._bars = sys.stderr.isatty() and not (quiet or no_progress or os.environ.get("TERM") == "dumb")
        self._lines = bool(os.environ.get("CI")) and not (quiet or self._bars or no_progress)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._tenth = 0
        self._start = 0.0

    def __enter__(self) -> Self:
        if self._bars:
            self._progress = Progress(
                TextColumn("  {task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
                console=self._console, transient=True,
            )  # fmt: skip
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def stage_started(self, index: int, count: int, name: str) -> None:
        """Remember the stage; its line is printed when it is done."""
        self._end_bar()
        if self._bars and self._progress is not None:
            self._task = self._progress.add_task(f"[{index}/{count}] {name}", total=None, note="")

    def stage_skipped(self, index: int, count: int, name: str) -> None:
        """Print that nothing had to be done."""
        self._say(f"[{index}/{count}] {name} ... finished earlier")

    def stage_done(self, index: int, count: int, result: StageResult) -> None:
        """Print the stage's one line."""
        self._end_bar()
        self._say(f"[{index}/{count}] {result.name} ... {result.summary}, {result.seconds:.1f} s")
        for message in result.warnings:
            self.warning(message)

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Move the bar, or print a line every tenth in CI."""
        if what != self._what:
            self._what, self._tenth, self._start = what, 0, time.monotonic()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=what, completed=done, total=total, note=note)
        tenth = done * _TENTH // max(total, 1)
        if self._lines and tenth > self._tenth and time.monotonic() - self._start > _SLOW_SECONDS:
            self._console.print(f"  {what}: {done}/{total} {note}")
        self._tenth = max(self._tenth, tenth)

    def warning(self, message: str) -> None:
        """Print a warning, quiet or not."""
        self._console.print(Text.assemble(("warning:", "yellow"), f" {message}"))

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text)

    def _end_bar(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
        self._task, self._what = None, ""
