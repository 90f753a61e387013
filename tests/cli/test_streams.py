"""What is drawn where: progress on stderr, results on stdout, colour only where it is wanted."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.cli.drawing import Drawing, stdout_console
from pdp_export.cli.inspect_file import _printable
from pdp_export.pipeline.environment import portable_command
from pdp_export.results import StageResult

_RESULT = StageResult(name="prune", seconds=2.04, summary="layers[relu] [/x] done", warnings=("odd [bold] one",))


def _draw(drawing: Drawing) -> None:
    with drawing:
        drawing.stage_started(3, 9, "prune")
        for step in range(1, 101):
            drawing.progress("pruning", step, 100, "loss [0.3]")
        drawing.stage_done(3, 9, _RESULT)
        drawing.stage_skipped(4, 9, "harden")


def test_one_line_per_stage_on_stderr_and_nothing_on_stdout(capfd: pytest.CaptureFixture[str]):
    """Pins progress in the middle of a result, and names in square brackets swallowed as markup."""
    _draw(Drawing())
    seen = capfd.readouterr()
    assert seen.out == ""
    assert seen.err.splitlines() == [
        "[3/9] prune ... layers[relu] [/x] done, 2.0 s",
        "warning: odd [bold] one",
        "[4/9] harden ... finished earlier",
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_the_same_lines(monkeypatch: pytest.MonkeyPatch):
    """Pins a bar that crashes on text in brackets, overwrites the stage's line, or shows on a dumb terminal."""
    for name, bar in (("xterm-256color", True), ("dumb", False)):
        monkeypatch.setenv("TERM", name)
        screen = _Terminal()
        monkeypatch.setattr("sys.stderr", screen)
        _draw(Drawing())
        assert ("━" in screen.getvalue()) == bar
        assert "[3/9] prune ... layers[relu] [/x] done, 2.0 s\n" in screen.getvalue()


def test_quiet_keeps_warnings(capfd: pytest.CaptureFixture[str]):
    """Pins --quiet that hides what must be known."""
    _draw(Drawing(quiet=True))
    assert capfd.readouterr().err == "warning: odd [bold] one\n"


def test_ci_gets_a_line_every_tenth_of_a_slow_step(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Pins a CI job killed for silence, or a log with a line per step."""
    now = iter(range(10_000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    monkeypatch.setenv("CI", "true")
    _draw(Drawing())
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("  pruning: ")]
    assert 8 <= len(lines) <= 10
    assert lines[-1] == "  pruning: 100/100 loss [0.3]"
    _draw(Drawing(no_progress=True))
    assert "  pruning: " not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("variables", "flag", "coloured"),
    [
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": "1"}, True, False),
        ({}, False, False),
    ],
)
def test_colour_obeys_no_color(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    flag: bool,
    coloured: bool,
):
    """Pins escape codes in a log file, or a --no-color that does nothing."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TERM", "xterm-256color")
    Drawing(no_color=flag).warning("look")
    stdout_console(no_color=flag).print("[red]result[/red]")
    seen = capfd.readouterr()
    assert ("\x1b[33m" in seen.err) == coloured
    assert ("\x1b[31m" in seen.out) == coloured


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["prune", "--recipe", "/home/me/recipe.yaml"], "prune --recipe recipe.yaml"),
        (["--recipe=/home/me/recipe.yaml"], "--recipe=recipe.yaml"),
        (["-o", "/tmp/run", "-o/tmp/run"], "-o run -orun"),  # noqa: S108 - an example, nothing is written
        (["--model", "/home/me/net.py:build"], "--model net.py:build"),
        (["--model=/home/me/net.py:build"], "--model=net.py:build"),
        (["--recipe", "/home/me/lr=0.1/recipe.yaml"], "--recipe recipe.yaml"),
        (["--recipe", "own/recipe.yaml", "--sparsity", "0.8"], "--recipe own/recipe.yaml --sparsity 0.8"),
        (["--ignore", "a b;rm"], "--ignore 'a b;rm'"),
        (["--target", "onnx", "-q"], "--target onnx -q"),
    ],
)  # fmt: skip
def test_the_saved_command_holds_no_path_of_this_machine(arguments: list[str], told: str):
    """Pins a user name in a report that is mailed to a customer, in any spelling of a path flag."""
    assert portable_command(arguments) == f"pdp-export {told}"


_PART = st.text("abc019=_. -", min_size=1, max_size=6).filter(lambda part: part not in {".", ".."})


@given(parts=st.lists(_PART, min_size=1, max_size=4), prefix=st.sampled_from(["", "--output=", "-o"]),
       function=st.sampled_from(["", ":build"]))  # fmt: skip
def test_any_absolute_path_is_cut_to_its_last_part(parts: list[str], prefix: str, function: str):
    """Pins one more spelling of a path (spaces, equals signs, a function) that keeps its folders."""
    path = "/" + "/".join(parts)
    saved = shlex.split(portable_command([f"{prefix}{path}{function}"]))
    assert saved == ["pdp-export", f"{prefix}{parts[-1]}{function}"]


@given(text=st.text())
def test_text_of_a_hostile_file_cannot_steer_the_terminal(text: str):
    """Pins escape sequences in a tensor's name that rewrite what `inspect` shows."""
    assert _printable(text).isprintable()
    assert len(_printable(text)) == len(text)


def test_results_are_not_broken_at_80_columns(pdp: Callable[..., Any], tmp_path: Path):
    """Pins a command to copy that is broken in the middle when the output is piped."""
    deep = tmp_path / ("long-name-" * 9)
    out = pdp("init", "--output", deep).out
    assert f"pdp-export prune-and-convert --recipe {deep}/recipe.yaml" in out
