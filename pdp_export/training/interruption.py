"""Ctrl-C at a safe moment: never in the middle of an update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptGuard:
    """Delays Ctrl-C while an update is under way; everywhere else it comes at once.

    Only python's own handler is replaced, and only in the main thread; a second Ctrl-C always
    comes at once.
    """

    def __init__(self) -> None:
        self._held = False
        self._pending = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT inside the block."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay a Ctrl-C until the block is done.

        Raises:
            KeyboardInterrupt: at the end of the block, when one came inside it.
        """
        self.hold()
        try:
            yield
        finally:
            self._held = False
        self.release()

    def hold(self) -> None:
        """Delay a Ctrl-C from now on."""
        self._held = True

    def release(self) -> None:
        """Delay no longer.

        Raises:
            KeyboardInterrupt: when one came since `hold`.
        """
        self._held = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._held and not self._pending:
            self._pending = True
            return
        raise KeyboardInterrupt
