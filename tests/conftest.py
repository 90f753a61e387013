"""Shared by all tests: the repository root is importable, so that sample models can be used."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
