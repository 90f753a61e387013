"""Options that a converter would refuse after training stop the run in its first stage, and in the dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import CommandLine, write_recipe

RUN = ("prune-and-convert", "--recipe", "work/recipe.yaml", "-o", "run")
GELU = """
def gelu():
    layers = build()
    layers.stem_act = nn.GELU(approximate="tanh")
    return layers
"""
CASES: list[tuple[dict[str, Any], tuple[str, ...], int, str]] = [
    ({}, ("--opset", "99"), 2, "opset 99 is not one of 18 to 23"),
    ({"targets": [{"name": "litert"}], "pruning.pattern": "channel"}, ("--encode", "sparse"), 2, "encoding: auto"),
    ({"targets": [{"name": "coreml", "options": {"min_ios": 15}}]}, (), 2, "option min_ios is 15"),
    ({"targets": [{"name": "coreml"}], "model.factory": "tiny_task.py:gelu"}, (), 4, "tanh form of GELU"),
]


@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["run", "dry-run"])
@pytest.mark.parametrize(("changes", "arguments", "code", "told"), CASES)
def test_it_is_refused_before_training(
    tmp_path: Path,
    cli: CommandLine,
    changes: dict[str, Any],
    arguments: tuple[str, ...],
    code: int,
    told: str,
    flags: tuple[str, ...],
):
    """Pins an hour of training that ends in an error which was known at its start."""
    write_recipe(tmp_path / "work", changes, task=GELU)
    done = cli(*RUN, *arguments, *flags)
    assert (done.code, done.out) == (code, ""), done.err
    assert told in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run" / "stages" / "02-train-dense").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()
