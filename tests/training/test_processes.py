"""Two processes of torchrun on gloo: the same masks, averaged gradients, one writer, exact resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.nets import fit, fixed_data, masked, plain_net

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # starts torch three times
Findings = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """The findings of both processes; torchrun is started once for all tests."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "tests.training.two_processes", str(folder)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    return first, second


def test_two_processes_take_the_steps_of_twice_the_batch(found: Findings, tmp_path: Path):
    """Pins gradients that are summed instead of averaged, or batches that both processes see."""
    model = plain_net()
    result = fit(tmp_path, model, masked(model), fixed_data(), accumulate=2)
    here = found[0]["plain"]
    for name, value in model.state_dict().items():
        theirs = torch.tensor(here["state"][name], dtype=torch.float64)
        assert torch.allclose(theirs, value.double().flatten(), rtol=1e-4, atol=1e-6), name
    assert here["losses"] == pytest.approx([record.loss for record in result.history], rel=1e-5)
    assert here["steps"] == result.steps // 2


def test_all_processes_end_with_the_same_weights_and_metric(found: Findings):
    """Pins ranks that drift apart, or that start from weights of their own."""
    first, second = ({**findings["plain"], "files": ()} for findings in found)
    assert first == second


def test_one_process_writes_the_checkpoints(found: Findings):
    """Pins two processes that write into one folder: one lists what the other deletes."""
    assert found[0]["plain"]["files"] == ["step-00000008", "step-00000009"]


def test_a_stopped_run_goes_on_bit_for_bit_in_every_process(found: Findings):
    """Pins a checkpoint with process 0's random state only: dropout elsewhere would repeat or jump."""
    for findings in found:
        assert findings["resumed"]["resumed_at"] == 5
        assert findings["noisy"]["resumed_at"] is None
        assert findings["resumed"]["history"] == findings["noisy"]["history"]
    assert found[0]["resumed"]["state"] == found[0]["noisy"]["state"]


def test_every_epoch_is_shared_out_without_overlap(found: Findings):
    """Pins samples seen twice, an order that does not change, or augmentation alike in all processes."""
    first, second = found[0]["shares"], found[1]["shares"]
    assert first["batches"] == second["batches"] == 5
    for mine, other in zip(first["epochs"], second["epochs"], strict=True):
        assert not set(mine) & set(other)
        assert 19 <= len(mine) + len(other) <= 20
    assert first["epochs"][0] != first["epochs"][1]
    assert first["draw"] != second["draw"]


@pytest.mark.parametrize(
    ("scenario", "error", "what"),
    [
        ("drifting", "ProofError", "the masks are not the same in process 0 and in 1"),
        ("nan", "TrainingStoppedError", "training stopped at step 2: in process 1, input 0 of the batch"),
        ("unused", "UsageError", "1 parameters take no part in the loss (0.spare)"),
        ("few", "DataError", "1 training batches cannot be shared by 2 processes"),
    ],
)
def test_errors_reach_every_process_with_their_names(found: Findings, scenario: str, error: str, what: str):
    """Pins a process that waits for another that has stopped."""
    for findings in found:
        assert findings[scenario]["error"] == error
        assert what in findings[scenario]["what"]


def test_processes_joined_without_gloo_are_refused(monkeypatch: pytest.MonkeyPatch):
    """Pins torch's "no backend type associated with device type cpu" in the middle of a run."""
    from torch import distributed

    from pdp_export.errors import UsageError
    from pdp_export.training import processes

    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "x"),
                        ("MASTER_PORT", "1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(UsageError, match="joined by cuda:nccl"):
        processes.muster()
