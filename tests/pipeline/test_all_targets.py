"""The real command as a user starts it: all four targets, and kill -9 by the clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.pipeline.conftest import CommandLine, real_command, write_recipe
from tests.pipeline.prints import assert_clean, fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_all_four_targets(tmp_path: Path):
    """Pins a target that only works alone, library noise on stdout, and NOT RUN that counts as passed."""
    targets = [{"name": name} for name in ("onnx", "coreml", "litert", "mnn")]
    recipe = write_recipe(tmp_path, {"targets": targets, "pruning.pattern": "channel", "pruning.sparsity": 0.5})
    arguments = ("prune-and-convert", "--recipe", recipe, "-o", tmp_path / "out", "--json")
    command = real_command(*arguments, cwd=tmp_path)
    out, err = command.communicate(timeout=280)
    assert command.returncode == 0, err
    verdicts = {item["target"]: item["verdict"] for item in json.loads(out)["targets"]}
    coreml = "PASS" if sys.platform == "darwin" else "NOT_RUN"
    assert verdicts == {"onnx": "PASS", "litert": "PASS", "mnn": "PASS", "coreml": coreml}
    assert len(err.splitlines()) == 9, err
    again = real_command(*arguments, "--resume", "--require-all-checks", cwd=tmp_path)
    again.communicate(timeout=280)
    assert again.returncode == (0 if coreml == "PASS" else 10)
    names = {path.name for path in (tmp_path / "out/artifacts").iterdir()}
    assert names == {"dense", "model.onnx", "model.mlpackage", "model.tflite", "model.mnn"}


@pytest.mark.parametrize("seed", range(2))
def test_killed_by_the_clock(tmp_path: Path, finished: Path, cli: CommandLine, seed: int):
    """Pins what exact moments miss: kills inside native code, and children started by the real interpreter."""
    random, run, recipe = Random(seed), tmp_path / "run", write_recipe(tmp_path / "work")
    arguments = ("prune-and-convert", "--recipe", recipe, "-o", run, "--resume")
    start = time.monotonic()
    whole = real_command(*arguments[:-2], tmp_path / "whole", cwd=tmp_path)
    whole.communicate()
    seconds = time.monotonic() - start
    assert fingerprint(tmp_path / "whole") == fingerprint(finished)
    for _ in range(6):
        command = real_command(*arguments, cwd=tmp_path)
        try:
            command.communicate(timeout=random.uniform(0.3, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            command.send_signal(signal.SIGKILL)
            command.communicate()
    assert cli(*arguments).code == 0
    assert fingerprint(run) == fingerprint(finished)
    assert_clean(run)
