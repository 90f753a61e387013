"""Runs the command line inside this process, as the installed command would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pdp_export.cli.main import main


@dataclass(frozen=True)
class Ended:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def pdp(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Return a function that runs ``pdp-export`` with arguments."""
    for variable in ("NO_COLOR", "FORCE_COLOR", "CI", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["pdp-export", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        seen = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, seen.out, seen.err)

    return run


@pytest.fixture
def project(tmp_path: Path, pdp: Callable[..., Ended]) -> Path:
    """Return a folder with the starter recipe and task."""
    assert pdp("init", "--output", tmp_path / "project").code == 0
    return tmp_path / "project"
