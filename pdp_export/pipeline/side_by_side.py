"""Runs tasks that wait for child processes two at a time; when one fails, the others are stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from pdp_export import isolation
from pdp_export.pipeline.observer import Observer

Result = TypeVar("Result")
_MOST = 2  # A converter may need gigabytes; two of them fit where one does.


def side_by_side(tasks: Sequence[tuple[str, Callable[[], Result]]], what: str, observer: Observer) -> list[Result]:
    """Return the result of every named task, in the order given.

    Raises:
        PdpExportError: of the first task that fails; running children are killed.
    """
    observer.progress(what, 0, len(tasks))
    with ThreadPoolExecutor(max_workers=min(_MOST, os.cpu_count() or 1)) as pool:
        names = {pool.submit(task): name for name, task in tasks}
        try:
            for done, future in enumerate(as_completed(names), 1):
                future.result()
                observer.progress(what, done, len(tasks), f"{names[future]} done")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            isolation.stop_all()
            raise
    return [future.result() for future in names]
