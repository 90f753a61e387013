"""The page about training loops: its examples run, in the order of the page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "training-loops.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")  # advice about workers
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning calls what torch deprecates
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
def test_examples_run_as_they_are_printed(tmp_path, monkeypatch, capfd):
    """Pins an example that a change of the interface has left behind."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    scope: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(BLOCKS, start=1):
        exec(compile(block, f"block {number} of {PAGE.name}", "exec"), scope)  # noqa: S102
    assert len(BLOCKS) == 8
    assert "90.04% of the weights are exactly zero" in capfd.readouterr().out


@pytest.mark.slow
def test_the_script_of_several_processes_runs_in_two(tmp_path):
    """Pins an example that works in one process only."""
    (block,) = (block for block in BLOCKS if "DistributedDataParallel" in block)
    (tmp_path / "train.py").write_text(BLOCKS[0] + block)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
