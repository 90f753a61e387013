"""Arrays that a user hands over as .npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read(path: str, flag: str) -> dict[str, Any]:
    """Return the arrays of an .npz file by name; nothing in it is unpickled.

    Raises:
        FileError: it is missing, damaged, or holds objects.
    """
    import zipfile

    import numpy as np

    from pdp_export.errors import FileError

    if not Path(path).is_file():
        raise FileError(f"{Path(path).name} does not exist or is a folder", where=flag, hint=f"check the path {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"{Path(path).name} is no .npz file of arrays: {error}", where=flag) from error
