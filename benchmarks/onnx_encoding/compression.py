"""Bytes after the compression of a package or of a download."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

ZSTD_LEVEL = 3
ZIP_LEVEL = 6


def sizes(path: Path) -> dict[str, int]:
    """Return the bytes of a file: raw, zipped (deflate 6) and, where zstandard is installed, with zstd 3."""
    data = path.read_bytes()
    found = {"raw": len(data), "zip": len(zlib.compress(data, ZIP_LEVEL))}
    if importlib.util.find_spec("zstandard"):
        import zstandard

        found["zstd"] = len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data))
    return found
