"""Runs functions in processes forked from a warm server: a fresh process without seconds of imports.

The server is `multiprocessing`'s; what is run in it is real (real signals, real files, the real command line).
Only one thing differs from production: children of `pdp_export.isolation` are forked as well, not started anew.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT, TimeoutExpired
from typing import Any
from unittest.mock import patch

from pdp_export import isolation

ROOT = Path(__file__).parents[2]
LIMIT_S = 240


@dataclass(frozen=True)
class Done:
    """How a command line ended."""

    code: int
    out: str
    err: str


def context() -> multiprocessing.context.ForkServerContext:
    """Return the context whose server has imported everything; its runs use one thread."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.pipeline.warm"])
    return made


def start(function: Callable[..., None], *arguments: Any, log: Path) -> multiprocessing.process.BaseProcess:
    """Start ``function(*arguments)`` in a fork; its stdout and stderr go to `log`."""
    process = context().Process(target=_child, args=(log, function, arguments))
    # Without a main module, multiprocessing does not import pytest's into every fork.
    with patch.multiple(sys.modules["__main__"], create=True, __spec__=None, __file__=None):
        process.start()
    return process


def run(function: Callable[..., None], *arguments: Any, log: Path) -> int:
    """Run ``function(*arguments)`` in a fork; return the exit code, negative for the signal that ended it."""
    process = start(function, *arguments, log=log)
    process.join(LIMIT_S)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"still running after {LIMIT_S} s:\n{log.read_text(encoding='utf-8')}")
    return process.exitcode


def gone(pid: int) -> bool:
    """Wait some seconds for a process to end; return whether it did (a zombie has ended)."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def _child(log: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    from tests.pipeline import warm

    assert os.getpid() != warm.SERVER, "the fork server did not import tests.pipeline.warm"
    multiprocessing.set_start_method("fork", force=True)  # as in a fresh process, not as in a child of the server
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    isolation.subprocess = ForkingSubprocess  # type: ignore[attr-defined,assignment]
    function(*arguments)


class ForkedChild:
    """What `isolation` needs of `subprocess.Popen`, made by a fork that enters `isolation.main`."""

    def __init__(self, command: list[str], *, stdout: io.BufferedWriter, **_options: Any) -> None:
        reading, self._writing = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writing)
            self._enter(command[command.index("pdp_export.isolation") + 1 :], reading, stdout.fileno())
        os.close(reading)

    @staticmethod
    def _enter(arguments: list[str], reading: int, output: int) -> None:
        code = 1
        try:
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdin = os.fdopen(reading, encoding="utf-8")
            isolation.main(arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def communicate(self, payload: bytes, timeout: float | None = None) -> None:
        """Hand the payload over and wait."""
        del timeout
        with os.fdopen(self._writing, "wb") as stream:
            stream.write(payload)
        self.wait()

    def wait(self) -> int:
        """Return the exit code."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


class ForkingSubprocess:
    """Stands in for the module `subprocess` inside `isolation`."""

    PIPE, STDOUT, TimeoutExpired, Popen = PIPE, STDOUT, TimeoutExpired, ForkedChild
