"""The results file: one JSON row per run, appended whole, never rewritten."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def append(path: Path, row: Row) -> None:
    """Append one row under a lock, in a single write, so that several runners may share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row, sort_keys=True) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.tell() and not _ends_with_newline(path):
            line = b"\n" + line  # an earlier runner was killed while it wrote
        file.write(line)
        os.fsync(file.fileno())


def read(path: Path) -> list[Row]:
    """Return all rows in order; a line that was torn by a kill is left out, its run counts as missing."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "key" in row:
            rows.append(row)
    return rows


def by_key(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the last row of every run that is settled.

    "not installed" is settled only as long as the tool is missing.
    """
    return {row["key"]: row for row in rows if row["status"] != "not installed" or not _importable(row["method"])}


def _importable(method: str) -> bool:
    from benchmarks.pruning_quality.methods.registry import METHODS

    package = METHODS[method].package if method in METHODS else None
    return package is not None and importlib.util.find_spec(package.replace("-", "_")) is not None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
