"""Pruning in two processes on one machine (torchrun, gloo): the same masks everywhere, without a message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RANKS = Path(__file__).with_name("ranks.py")
DDP = ["unstructured", "nm", "channel", "two views", "two views, channel"]
AFTER = "built after wrapping"
SHARDED = ["fsdp2 before", "fsdp2 after", "fsdp1 after"]


def launch(folder: Path, *cases: str) -> list[dict[str, dict[str, str]]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(RANKS), str(folder), *cases],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("ranks"), *DDP, AFTER, *SHARDED)


@pytest.mark.parametrize("case", [*DDP, AFTER])
def test_every_rank_has_the_same_masks_and_weights(ranks, case):
    """Ranks that see other data must still prune the same weights, and go on sharing gradients after hardening.

    "built after wrapping" pins masks that cut the gradients off from DDP; "two views" pins thresholds that DDP's
    broadcast overwrites between two forward passes of one backward pass.
    """
    one, other = (rank[case] for rank in ranks)
    assert set(one) == {"masks", "weights", "gradients", "zeros"}, one
    assert one == other
    assert int(one["zeros"]) > 0


def test_building_the_pruner_before_or_after_wrapping_is_the_same(ranks):
    """The order of two lines in a script must not change the result."""
    assert ranks[0][AFTER] == ranks[0]["unstructured"]


@pytest.mark.parametrize("case", SHARDED)
def test_sharded_parameters_are_refused_by_name(ranks, case):
    """A shard would be ranked as if it were the layer, each process by its own part."""
    for rank in ranks:
        message = rank[case].get("refused", str(rank[case]))
        assert "spread over 2 processes" in message
        assert ".weight" in message
        assert "DistributedDataParallel" in message


@pytest.mark.slow
def test_lightning_prunes_alike_on_every_rank(tmp_path):
    """Lightning shards the data itself; the callback must step and harden on every rank."""
    one, other = (rank["lightning"] for rank in launch(tmp_path, "lightning"))
    assert one == other
    assert int(one["zeros"]) > 0
