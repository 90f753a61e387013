"""How the pipeline tells what it is doing; the command line draws it, the library stays silent."""

from __future__ import annotations

from typing import Protocol

from pdp_export.results import StageResult


class Observer(Protocol):
    """Receives every event of a run, in order."""

    def stage_started(self, index: int, count: int, name: str) -> None:
        """Stage `index` of `count` (from 1) begins."""

    def stage_skipped(self, index: int, count: int, name: str) -> None:
        """The stage is finished already and its inputs are unchanged."""

    def stage_done(self, index: int, count: int, result: StageResult) -> None:
        """The stage is finished and recorded."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units of `what` are finished."""

    def warning(self, message: str) -> None:
        """Something the user should know, not an error."""


class Silent:
    """An observer that ignores everything."""

    def stage_started(self, index: int, count: int, name: str) -> None:
        """Ignore."""

    def stage_skipped(self, index: int, count: int, name: str) -> None:
        """Ignore."""

    def stage_done(self, index: int, count: int, result: StageResult) -> None:
        """Ignore."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Ignore."""

    def warning(self, message: str) -> None:
        """Ignore."""
