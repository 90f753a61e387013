"""Shared by all tests: the repository root is importable, so that sample models can be used."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

from hypothesis import settings

# The suite that decides must not depend on luck: `make test-all` draws new examples (--hypothesis-profile=random).
settings.register_profile("fixed", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile("fixed")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: threads of torch that wait for each other's core make a training step ten times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Captured networks leave a million objects behind; a tenth of the suite's time went into walking them.
gc.set_threshold(700, 10, 100)

sys.path.insert(0, str(Path(__file__).parent.parent))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored, and children inherit it: the tests of Ctrl-C need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
