"""The closing table: short, whole at 80 columns, and honest."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pdp_export.report import formatting, terminal_table
from pdp_export.results import Verdict


def _text(renderable, width=80):
    stream = StringIO()
    Console(width=width, color_system=None, file=stream).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_at_most_twenty_lines(report, width):
    """Four targets, each with something to say, must still fit on a small terminal."""
    lines = _text(terminal_table.closing(report, Path("runs/demo")), width).splitlines()
    assert len(lines) <= 20
    assert all(len(line) <= width for line in lines)


def test_verdicts_are_never_cut(report):
    """A verdict cut to "INCONC..." is no verdict."""
    open_targets = tuple(t.model_copy(update={"verdict": Verdict.INCONCLUSIVE}) for t in report.targets)
    text = _text(terminal_table.closing(report.model_copy(update={"targets": open_targets}), Path("runs/demo")))
    assert text.count("INCONCLUSIVE") == 4


def test_content(report):
    """Size, ratio, accuracy, error, latency and verdict of every target; NOT RUN in words; what to type next."""
    text = _text(terminal_table.closing(report, Path("runs/demo")))
    assert text.startswith("FAIL  mobilenet-digits: 2 of 4 files pass")
    row = next(line for line in text.splitlines() if line.strip().startswith("coreml "))
    assert row.count("NOT RUN") == 4
    for words in (
        "1.71 MB",
        "7.51x",
        "-8.00 pt",
        "4.1e-07",
        "latency undecided",
        "runs/demo/report.html",
        "warnings: 1",
    ):
        assert words in text
    assert "pdp-export inspect runs/demo/artifacts/model.onnx" in text
    assert "faster" not in text


def test_markup_in_names_is_printed(report):
    """Square brackets in a name must not be taken for rich markup."""
    odd = report.model_copy(update={"name": "net[red]v1[/red]"})
    assert "net[red]v1[/red]" in _text(terminal_table.closing(odd, Path("runs/demo")))
    assert "net[red]v1[/red]" in _text(terminal_table.compare([odd], [Path("run")]), 160)


def test_runs_side_by_side(report):
    """Dense, unstructured and channel below each other, per target."""
    channel = report.model_copy(update={"name": "channel-0.5", "targets": report.targets[:1]})
    text = _text(terminal_table.compare([report, channel], [Path("one"), Path("two")]), 160)
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert [row[0] for row in rows[2:6]] == ["onnx", "mobilenet-digits", "channel-0.5", "coreml"]
    assert sum(row[0] == "channel-0.5" for row in rows) == 1


def test_runs_of_one_recipe_are_told_apart(report):
    """Pins two rows with the same name, of which nobody knows the run."""
    other = report.model_copy(update={"name": "other"})
    folders = [Path("runs/first"), Path("runs/oneshot"), Path("runs/third")]
    text = _text(terminal_table.compare([report, report, other], folders), 160)
    rows = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert rows[2:6] == ["onnx", "runs/first", "runs/oneshot", "other"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (999, "999 B"), (1000, "1.00 kB"), (1_706_000, "1.71 MB"), (12_810_000, "12.8 MB")]
)
def test_sizes(value, text):
    """Powers of 1000, three digits."""
    assert formatting.size(value) == text


def test_small_changes_have_no_sign_of_nothing():
    """A change that rounds to zero is neither a gain nor a loss."""
    assert formatting.points(-1e-9) == formatting.points(0.0) == "0.00 pt"
    assert formatting.points(-0.0123) == "-1.23 pt"
    assert formatting.error(0.0) == "0 (exact)"


def test_hardening_and_one_shot_are_told(report):
    """What exact zeros cost stands beside the accuracy, and a one-shot run is called one."""
    text = _text(terminal_table.closing(report, Path("runs/demo")), 160)
    assert "soft masks 96.71 % -> zeros 96.64 % -> recalibrated 96.81 %" in text
    assert "one-shot" not in text
    shot = report.model_copy(update={"one_shot": True, "recalibration": None})
    text = _text(terminal_table.closing(shot, Path("runs/demo")), 160)
    assert text.startswith("FAIL  mobilenet-digits, one-shot (not trained): ")
    assert "accuracy: zeros 96.64 %" in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.123456, "0.1235"), (15130.4, "15130"), (2.5e8, "2.5e+08"), (1e-9, "1e-09")]
)
def test_numbers(value, text):
    """A gain of 15130 is easier to compare with its limit of 2 than 1.513e+04."""
    assert formatting.number(value) == text
