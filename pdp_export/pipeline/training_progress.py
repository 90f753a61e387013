"""Forwards the training loop's progress to the observer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pdp_export.pipeline.observer import Observer

if TYPE_CHECKING:
    from pdp_export.training.records import Progress


def forward_progress(observer: Observer, what: str) -> Callable[[Progress], None]:
    """Return a callback that shows epochs, steps, loss and metric of a training stage."""

    def forward(progress: Progress) -> None:
        done = (progress.epoch - 1) * progress.steps + progress.step
        notes = [f"epoch {progress.epoch}/{progress.epochs}", f"loss {progress.loss:.3f}"]
        if progress.metric is not None:
            notes.append(f"metric {progress.metric:.4f}")
        observer.progress(what, done, progress.epochs * progress.steps, ", ".join(notes))

    return forward
