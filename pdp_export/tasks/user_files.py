"""The files of the user that a reference depends on, found without running them."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def source_files(reference: str, folder: Path) -> list[Path]:
    """Return the file of ``module:function`` or ``file.py:function``, and the neighbours it imports, sorted.

    Only modules that lie in the same folder are followed (a script's own helpers), not installed
    packages. Empty when the file cannot be told.
    """
    first = _file_of(reference, folder)
    found: set[Path] = set()
    waiting = [first] if first is not None and first.is_file() else []
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _neighbours(path)
    return sorted(found)


def _file_of(reference: str, folder: Path) -> Path | None:
    place = reference.rpartition(":")[0]
    if place.endswith(".py"):
        return folder / place
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _neighbours(path: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
        for name in names:
            top = name.split(".")[0]
            for candidate in (path.parent / f"{top}.py", path.parent / top / "__init__.py"):
                if candidate.is_file():
                    yield candidate
