"""Runs one function in a child process, so that native code can crash, hang or print in peace.

The child is ``python -m pdp_export.isolation module:function``. Payload and result are JSON; big
arrays travel as safetensors files whose paths are in the payload. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pdp_export import errors
from pdp_export.errors import ChildCrashedError, PdpExportError

DEFAULT_TIMEOUT_S = 900.0
DEFAULT_MEMORY_BYTES = 16 << 30
_TAIL_LINES = 12
_RUNNING: set[subprocess.Popen[bytes]] = set()


def call(
    function: str,
    payload: dict[str, Any],
    *,
    what: str,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    log: Path | None = None,
) -> Any:
    """Call ``module:function(**payload)`` in a child process and return its JSON result.

    A PdpExportError raised in the child is raised here with the same class, text and hint.

    Args:
        function: "module:function"; its result must be JSON.
        payload: Its keyword arguments, JSON as well.
        what: What is being done, for the error message ("converting to mnn").
        timeout_s: Seconds of wall time before the child is killed.
        memory_bytes: Address-space limit of the child (Linux and macOS).
        log: File that the child's stdout and stderr are appended to.

    Raises:
        ChildCrashedError: the child died by a signal, hung, or ended without a result.
    """
    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        result_path = Path(folder) / "result.json"
        output_path = Path(folder) / "output.txt"
        # -P: a file of the working directory named like a library must not be imported in its place.
        command = [
            sys.executable, "-P", "-m", "pdp_export.isolation",
            function, str(result_path), str(memory_bytes), str(os.getpid()),
        ]  # fmt: skip
        with output_path.open("wb") as output:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            status = _communicate(child, json.dumps(payload).encode(), timeout_s)
        text = output_path.read_text(encoding="utf-8", errors="replace")
        if log is not None:
            with log.open("a", encoding="utf-8") as stream:
                stream.write(f"--- {what}\n{text}")
        return _result(result_path, status, what, text, timeout_s)


def stop_all() -> None:
    """Kill every child that is running now; their callers get ChildCrashedError."""
    for child in list(_RUNNING):
        _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)


def _communicate(child: subprocess.Popen[bytes], payload: bytes, timeout_s: float) -> int | None:
    _RUNNING.add(child)
    try:
        child.communicate(payload, timeout=timeout_s)
        return child.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            _kill(child)
            child.wait()
        _RUNNING.discard(child)


def _result(path: Path, status: int | None, what: str, text: str, timeout_s: float) -> Any:
    tail = "\n".join(text.strip().splitlines()[-_TAIL_LINES:])
    if status is None:
        raise ChildCrashedError(
            f"{what} did not finish within {timeout_s:.0f} s and was stopped", hint="see log.txt of the run"
        )
    if not path.exists():
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit code {status}"
        last = tail.splitlines()[-1] if tail else "no output"
        raise ChildCrashedError(f"{what} ended {how}: {last}", hint="the file or the model is damaged, or see log.txt")
    answer = json.loads(path.read_text(encoding="utf-8"))
    if "error" in answer:
        kind = getattr(errors, answer["error"], PdpExportError)
        raise kind(answer["what"], where=answer["where"], hint=answer["hint"])
    return answer["result"]


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no resource module; the time limit still holds.
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # It died before the signal was arranged.
            sys.exit("the parent process is gone")


def main(arguments: list[str]) -> None:
    """Entry of the child: read the payload, call the function, write the result atomically."""
    reference, result_path, memory, parent = arguments
    _die_with_parent(int(parent))
    _limit_memory(int(memory))
    module, _, name = reference.partition(":")
    answer: dict[str, Any]
    try:
        payload = json.load(sys.stdin)
        answer = {"result": getattr(importlib.import_module(module), name)(**payload)}
    except PdpExportError as error:
        answer = {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    except MemoryError:
        answer = {
            "error": "ChildCrashedError",
            "what": f"{name} needed more than {int(memory) >> 20} MiB of memory and was stopped",
            "where": None,
            "hint": "the file claims shapes that do not fit, or the model is too large for this machine",
        }
    partial = Path(f"{result_path}.partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.replace(result_path)


if __name__ == "__main__":
    main(sys.argv[1:])
