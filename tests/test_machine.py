"""What the processor is and can do, as the system describes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdp_export import machine

EPYC = (
    "processor\t: 0\nmodel name\t: AMD EPYC 7713\nflags\t\t: fpu ssse3 avx2 {}\n\nprocessor\t: 1\nmodel name\t: other\n"
)


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that is read in the place of the system's; it does not exist yet."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "Path", lambda _: path)
    return path


@pytest.mark.parametrize(
    ("text", "saturates"),
    [
        (EPYC, True),
        (EPYC.format("avx512_vnni"), False),
        (EPYC.format("avx_vnni"), False),
        ("Features\t: asimd\n", False),
    ],
)
def test_only_x86_without_vnni_saturates(text: str, saturates: bool, described: Path) -> None:
    """A warning on every phone and new processor would be read by nobody."""
    described.write_text(text, encoding="utf-8")
    assert machine.saturates_bytes() is saturates


def test_name_of_the_processor(described: Path) -> None:
    """Measured times are remembered by it; a system that does not tell must not fail."""
    assert machine.cpu_name()
    assert machine.saturates_bytes() is False
    described.write_text(EPYC, encoding="utf-8")
    assert machine.cpu_name() == "AMD EPYC 7713"
