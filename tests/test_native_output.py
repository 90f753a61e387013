"""What C code prints to file descriptor 1 is kept from stdout, buffered or not."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import ctypes, os
from pdp_export.native_output import captured_stdout, stdout_to_stderr
libc = ctypes.CDLL(None)
print("before")
with stdout_to_stderr():
    libc.printf(b"buffered by C\\n")
    os.write(1, b"unbuffered\\n")
    print("from Python")
with captured_stdout() as lines:
    libc.printf(b"caught 1\\n")
    print("caught 2")
print(sorted(lines))
"""


def test_only_results_reach_stdout() -> None:
    """Printf keeps its text until exit when stdout is a pipe, and would then write it to the real stdout."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "before\n['caught 1', 'caught 2']\n"
    for text in ("buffered by C", "unbuffered", "from Python", "caught 1", "caught 2"):
        assert text in done.stderr
