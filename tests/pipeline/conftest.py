"""One finished run by the real command line, shared by every test that only reads it."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline import doom, forks
from tests.pipeline.forks import ROOT, Done

HERE = Path(__file__).parent
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {"factory": "tiny_task.py:build"},
    "data": {"factory": "tiny_task.py:load"},
    "inputs": [{"name": "image", "shape": [1, 3, 16, 16], "dynamic": {0: "batch"}, "layout": "NCHW"}],
    "outputs": ["logits"],
    "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "labels": ["a", "b", "c", "d"]},
    "training": {"epochs": 3, "lr": 0.05, "threads": 1, "checkpoint_every_steps": 2},
    "pruning": {"sparsity": 0.7, "epochs": 3},
    "targets": [{"name": "onnx"}],
    "benchmark": {"blocks": 4, "warmup": 1},
}

WriteRecipe = Callable[..., Path]
CommandLine = Callable[..., Done]


def write_recipe(folder: Path, changes: Mapping[str, Any] | None = None, *, task: str = "") -> Path:
    """Write the tiny recipe with dotted `changes` (None deletes a key) and its task file, with `task` appended."""
    values: dict[str, Any] = yaml.safe_load(yaml.safe_dump(RECIPE))
    for dotted, value in (changes or {}).items():
        *sections, key = dotted.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        if value is None:
            del place[key]
        else:
            place[key] = value
    folder.mkdir(parents=True, exist_ok=True)
    source = (HERE / "tiny_task.py").read_text(encoding="utf-8")
    (folder / "tiny_task.py").write_text(f"{source}\n\n{task}", encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def real_command(*arguments: Any, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """Start ``python -m pdp_export`` as a user would."""
    environment = {key: value for key, value in os.environ.items() if key not in {"CI", "OMP_NUM_THREADS"}}
    return subprocess.Popen(
        [sys.executable, "-m", "pdp_export", *map(str, arguments)],
        cwd=cwd, env=environment | {"PYTHONPATH": str(ROOT)} | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The folder of a finished run, and what its command printed.

    It holds ``recipe.yaml``, the run directory ``out`` and ``events.json``, the number of events in each stage.
    """
    folder = tmp_path_factory.mktemp("customer-place")
    recipe = write_recipe(folder)
    arguments = ("prune-and-convert", "--recipe", recipe, "-o", folder / "out", "--json")
    done = command_line(folder, *arguments, before=(doom.watch_command, folder / "out", None, folder / "events.json"))
    assert done.code == 0, done.err
    return folder, done


@pytest.fixture(scope="session")
def finished(reference: tuple[Path, Done]) -> Path:
    """The run directory of the finished run; only to be read."""
    return reference[0] / "out"


@pytest.fixture
def copied(reference: tuple[Path, Done], tmp_path: Path) -> Path:
    """A copy of the finished run with its recipe beside it: ``recipe.yaml``, ``tiny_task.py``, ``out``."""
    folder = tmp_path / "copy"
    shutil.copytree(reference[0], folder)
    return folder


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """Run the command line in a fork, with the working directory in `tmp_path`.

    `before` names a function ``(*arguments) -> None`` that prepares the process (a monkeypatch for one fork).
    """

    def call(*arguments: Any, before: tuple[Any, ...] = ()) -> Done:
        return command_line(tmp_path, *arguments, before=before)

    return call


def command_line(folder: Path, *arguments: Any, before: tuple[Any, ...] = ()) -> Done:
    """Run the command line in a fork, in the working directory `folder`."""
    out, err, log = (folder / name for name in (".stdout", ".stderr", ".fork"))
    code = forks.run(_main, [str(item) for item in arguments], folder, out, err, before, log=log)
    return Done(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))


def _main(arguments: list[str], folder: Path, out: Path, err: Path, before: tuple[Any, ...]) -> None:
    from pdp_export.cli.main import main

    os.chdir(folder)
    os.environ.pop("CI", None)
    os.environ["COLUMNS"] = "200"
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if before:
        before[0](*before[1:])
    sys.argv = ["pdp-export", *arguments]
    try:
        main()
    finally:
        atexit._run_exitfuncs()
