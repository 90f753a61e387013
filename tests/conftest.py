"""Shared by all tests: the repository root is importable, so that sample models can be used."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from hypothesis import settings

# The suite that decides must not depend on luck: `make test-all` draws new examples (--hypothesis-profile=random).
settings.register_profile("fixed", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile("fixed")

sys.path.insert(0, str(Path(__file__).parent.parent))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored, and children inherit it: the tests of Ctrl-C need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
