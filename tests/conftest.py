"""Shared by all tests: the repository root is importable, so that sample models can be used."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored, and children inherit it: the tests of Ctrl-C need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
