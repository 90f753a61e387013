"""Arrays that a user hands over as .npz."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdp_export.cli.arrays import read
from pdp_export.errors import FileError


@pytest.mark.parametrize(
    ("name", "told"), [("absent.npz", "does not exist"), (".", "folder"), ("x.npz", "no .npz file")]
)
def test_a_missing_file_is_not_called_a_damaged_one(tmp_path: Path, name: str, told: str):
    """Pins "no .npz file of arrays: [Errno 2]" for a mistyped path."""
    (tmp_path / "x.npz").write_text("text", encoding="utf-8")
    with pytest.raises(FileError, match=told) as caught:
        read(str(tmp_path / name), "--inputs")
    assert caught.value.where == "--inputs"
