"""The frame of the command line: help, streams, exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from pdp_export import errors
from pdp_export.cli.main import COMMANDS, program

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "coremltools", "pydantic", "matplotlib", "lightning_fabric")


def _imports(*arguments: str) -> tuple[int, str, set[str]]:
    """Run the command in a new process and return exit code, stdout and the modules it imported."""
    code = "from pdp_export.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return done.returncode, done.stdout, modules


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_works_without_heavy_imports(arguments: list[str]):
    """Pins a --help that takes seconds because a command imports torch at its top."""
    code, out, modules = _imports(*arguments)
    assert code == 0
    assert out
    assert "click" in modules
    assert [name for name in HEAVY if name in modules] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_takes_the_common_flags(name: str):
    """Pins a command that is left out of the help, or that lacks --json, --quiet, --no-color or --debug."""
    command = program.get_command(click.Context(program), name)
    assert command is not None
    assert command.name == name
    assert command.help
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--json", "--quiet", "--no-progress", "--no-color", "--debug"} <= flags
    assert all(flag == flag.lower() and "_" not in flag for flag in flags if flag.startswith("--"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained(name: str):
    """Pins a flag without help text."""
    command = program.get_command(click.Context(program), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


def test_the_same_flag_means_the_same_everywhere():
    """Pins --atol that is a number in one command and text in another, or two spellings of one flag."""
    kinds: dict[str, set[Any]] = {}
    for name in COMMANDS:
        command = program.get_command(click.Context(program), name)
        assert command is not None
        for parameter in command.params:
            for flag in parameter.opts:
                if isinstance(parameter, click.Option) and flag.startswith("--"):
                    kind = "whole number" if "integer" in str(parameter.type.name) else parameter.type.name
                    kinds.setdefault(flag, set()).add((kind, parameter.is_flag))
    assert {flag: found for flag, found in kinds.items() if len(found) > 1 and flag != "--model"} == {}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["prune-and-conver"], 2, "did you mean 'prune-and-convert'?"),
        (["--no-such-flag"], 2, "--no-such-flag"),
        (["doctor", "--jsn"], 2, "--json"),
        (["prune-and-convert"], 2, "Missing option '--recipe'"),
        (["prune-and-convert", "--recipe", "absent.yaml"], 2, "absent.yaml does not exist"),
        (["prune-and-convert", "--recipe", "absent.yaml", "--sparsity", "much"], 2, "'much' is not a valid float"),
        (["prune", "--recipe", "absent.yaml"], 2, "pdp-export init"),
        (["convert", "--output", "x"], 2, "either a program or an .onnx file"),
        (["convert", "--output", "x", "--expand", "absent.onnx"], 1, "absent.onnx does not exist"),
        (["convert", "--output", "x", "--expand", "absent.onnx", "--target", "onnx"], 2, "take no target"),
        (["convert", "--model", "absent.pt2", "--output", "x"], 2, "no target given"),
        (["convert", "--model", "absent.pt2", "--output", "x", "--target", "onxx"], 2, "did you mean 'onnx'?"),
        (["convert", "--model", "absent.pt2", "--output", "x", "--target", "onnx"], 1, "absent.pt2"),
        (["validate", "absent.onnx"], 1, "absent.onnx"),
        (["bench", "absent.onnx"], 2, "--against"),
        (["bench", "absent.onnx", "--against", "other.onnx"], 1, "absent.onnx does not exist"),
        (["inspect", "absent.onnx"], 1, "absent.onnx does not exist"),
        (["report", "absent"], 1, "absent"),
        (["report"], 2, "RUNS"),
        ([], 2, "Usage: pdp-export"),
    ],
)
def test_a_mistake_ends_with_the_documented_code_and_one_message_on_stderr(
    pdp: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, told: str
):
    """Pins a wrong exit code, a traceback, or a message on stdout where only results belong."""
    monkeypatch.chdir(tmp_path)
    ended = pdp(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert "a fault of pdp-export" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_convert_promises_no_target_of_a_recipe(pdp: Callable[..., Any]):
    """Pins a default taken from a recipe, in the help of a command that reads none."""
    shown = " ".join(pdp("convert", "--help").out.split())
    assert "--target NAME Target, repeatable: onnx, coreml, litert, mnn. [required with --model]" in shown
    assert "recipe" not in shown
    assert "[default: the recipe's]" in " ".join(pdp("prune-and-convert", "--help").out.split())


def test_inspect_says_what_it_opens_instead(pdp: Callable[..., Any], tmp_path: Path):
    """Pins a list of endings without .ort, which inspect opens, and a run directory called a file without suffix."""
    recipe = tmp_path / "recipe.yaml"
    recipe.touch()
    assert ".mnn, .ort\n" in pdp("inspect", recipe).err
    (tmp_path / "run" / "artifacts").mkdir(parents=True)
    ended = pdp("inspect", tmp_path / "run")
    assert (ended.code, "run is a run directory" in ended.err) == (1, True)
    assert f"one of the files in {tmp_path / 'run' / 'artifacts'}\n" in ended.err
    (tmp_path / "run").rename(tmp_path / "run-1.5")
    assert "run-1.5 is a run directory" in pdp("inspect", tmp_path / "run-1.5").err


def _command_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    @click.option("--debug", is_flag=True)
    def command(debug: bool) -> None:
        del debug
        raise error

    monkeypatch.setattr(program, "get_command", lambda *_: command)


_KINDS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PdpExportError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_error_of_ours_ends_with_its_own_exit_code(
    pdp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: type[errors.PdpExportError]
):
    """Pins a gate or refusal that a CI script cannot tell from another."""
    _command_that_raises(monkeypatch, kind("it [failed]", where="here [/x]", hint="do that"))
    ended = pdp("doctor")
    assert ended.code == kind.exit_code
    assert ended.err == "Error: it [failed]\n  where: here [/x]\n  next:  do that\n"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (ZeroDivisionError("x"), 1, "unexpected ZeroDivisionError: x\n  next:  this is a fault of pdp-export"),
        (PermissionError(13, "Permission denied", "out"), 1, "Permission denied\n  where: out"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_other_ends_have_a_code_and_no_traceback(
    pdp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, told: str
):
    """Pins click's code 1 for Ctrl-C, or a traceback in front of a user."""
    _command_that_raises(monkeypatch, error)
    ended = pdp("doctor")
    assert ended.code == code
    assert told in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("error", [errors.FileError("x"), ZeroDivisionError("x"), OSError(5, "x")])
def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception):
    """Pins --debug that hides where an error came from."""
    from pdp_export.cli.main import main

    _command_that_raises(monkeypatch, error)
    monkeypatch.setattr(sys, "argv", ["pdp-export", "doctor", "--debug"])
    with pytest.raises(type(error)):
        main()


def test_the_module_runs_like_the_command():
    """Pins `python -m pdp_export`, for machines where scripts are not on the path."""
    done = subprocess.run([sys.executable, "-m", "pdp_export", "--version"], capture_output=True, text=True, check=True)
    assert "0.1" in done.stdout
