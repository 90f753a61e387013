"""Keeps what coremltools prints, logs and draws out of the user's sight; it is logged at debug level."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_LOGGER = logging.getLogger(__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence stdout, stderr, loggers and warnings inside the block.

    coremltools warns about every torch release it was not tested with, about its missing native part
    off macOS, and draws progress bars; nothing of it asks the user to act. Failures are exceptions.
    """
    noise = io.StringIO()
    before = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            yield
    finally:
        logging.disable(before)
        if noise.getvalue():
            _LOGGER.debug("coremltools: %s", noise.getvalue())
