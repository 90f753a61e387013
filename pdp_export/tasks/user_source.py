"""Finds the user's own line of code in an error, whoever raised it."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_PACKAGE = Path(__file__).resolve().parent.parent
_OURSELVES = (_PACKAGE, (_PACKAGE / "converters").resolve())


def user_line(error: BaseException) -> str | None:
    """Return ``file.py:12: code`` of the innermost frame that is the user's, or None.

    Looks at the traceback of the error and of its causes, then at frames quoted in its text (torch
    re-raises some errors with only the text of the stack). File names are relative to the working
    directory, or the last two parts of the path: never an absolute path of this machine.
    """
    frames = [frame for item in _chain(error) for frame in _frames(item)]
    quoted = [(Path(match["file"]), int(match["line"])) for match in _FRAME.finditer(str(error))]
    unreadable = [
        (Path(item.filename), item.lineno or 0)
        for item in _chain(error)
        if isinstance(item, SyntaxError) and item.filename
    ]
    for path, line in [*unreadable, *reversed(frames), *reversed(quoted)]:
        if _is_users(path):
            return f"{_short(path)}:{line}: {linecache.getline(str(path), line).strip()}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it, the outermost first; the real frames are mostly in the innermost."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _frames(error: BaseException) -> list[tuple[Path, int]]:
    return [(Path(frame.filename), frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]


def _is_users(path: Path) -> bool:
    if not path.is_file():
        return False
    resolved = path.resolve()
    return not any(resolved.is_relative_to(root) for root in (*_LIBRARIES, *_OURSELVES))


def _short(path: Path) -> str:
    resolved = path.resolve()
    if resolved.is_relative_to(Path.cwd()):
        return resolved.relative_to(Path.cwd()).as_posix()
    return "/".join(resolved.parts[-2:])
