"""Keeps what native libraries print away from stdout, which carries results only.

C and C++ code writes to file descriptor 1 directly, so replacing `sys.stdout` is not enough.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator

_STDOUT = 1
_STDERR = 2


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send everything that is written to stdout inside the block to stderr."""
    with _stdout_to(_STDERR):
        yield


@contextlib.contextmanager
def captured_stdout() -> Iterator[list[str]]:
    """Yield a list that holds the lines written to stdout once the block is left; they also go to stderr."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as stream:
        try:
            with _stdout_to(stream.fileno()):
                yield lines
        finally:
            stream.seek(0)
            text = stream.read()
            with os.fdopen(_STDERR, "wb", closefd=False) as stderr:
                stderr.write(text)
            lines.extend(text.decode("utf-8", errors="replace").splitlines())


@contextlib.contextmanager
def _stdout_to(descriptor: int) -> Iterator[None]:
    _flush()
    saved = os.dup(_STDOUT)
    try:
        os.dup2(descriptor, _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(saved, _STDOUT)
        os.close(saved)


def _flush() -> None:
    """Empty Python's and C's buffers: printf keeps text until exit when stdout is no terminal."""
    sys.stdout.flush()
    with contextlib.suppress(OSError, TypeError, AttributeError):  # Windows has no process-wide handle; MSVC flushes
        ctypes.CDLL(None).fflush(None)
