"""Functions that a child process is asked to run by test_isolation.py: well-behaved and otherwise."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pdp_export.errors import CaptureError, RecipeError


def echo(**payload: Any) -> dict[str, Any]:
    """Return what was sent."""
    return payload


def refuse(where: str | None = None) -> None:
    """Raise an error of this package."""
    raise CaptureError("cannot capture ö", where=where, hint="try another")


class _OwnError(RecipeError):
    pass


def refuse_in_a_subclass() -> None:
    """Raise an error whose class only the child knows."""
    raise _OwnError("own refusal")


def fail() -> None:
    """Raise an ordinary error."""
    raise ValueError("an ordinary mistake")


def read_null_pointer() -> None:
    """Crash for real."""
    ctypes.string_at(0)


def abort() -> None:
    """End as a failed C++ check does."""
    os.kill(os.getpid(), signal.SIGABRT)


def leave(code: int) -> None:
    """Leave without a result."""
    sys.exit(code)


def hang(started: str) -> None:
    """Start a grandchild, write down both process ids, and never return."""
    grandchild = os.fork()
    if grandchild:
        Path(started).write_text(f"{os.getpid()} {grandchild}", encoding="utf-8")
    time.sleep(600)


def hang_alone(started: str) -> None:
    """Write down the process id, and never return."""
    Path(started).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)


def eat_memory() -> None:
    """Ask for far more than the limit."""
    bytearray(8 << 30)


def shout() -> str:
    """Print by Python, by the file descriptor, and by C."""
    print("python noise")
    os.write(1, b"descriptor noise\n")
    os.write(2, b"error noise \xff\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"c noise")
    libc.fflush(None)
    return "quiet result"


def not_json() -> object:
    """Return what cannot be written as JSON."""
    return object()


def numbers() -> list[float]:
    """Return floats that JSON has no standard word for."""
    return [float("nan"), float("inf"), 0.1]


def close_stdin_at_once(**_: Any) -> None:
    """Die while the parent may still be writing."""
    os._exit(7)
