"""The benchmark of kinds of masks: from training to accuracy at equal latency."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))

import toy

from benchmarks.channel_removal.timing import Effort
from benchmarks.mask_choice import latency
from benchmarks.mask_choice.plan import DENSE, KINDS, SPARSITIES, Run, missing, runs
from benchmarks.mask_choice.summary import compared, summarise
from benchmarks.mask_choice.training import fitted, stored
from sample_models.resnet import resnet_cifar

TASK = replace(toy.TASK, build=lambda: resnet_cifar(10, depth=8, width=8), epochs=2, dense_epochs=1)


def dead(model):
    """Return the share of dead filters of each convolution by name."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.dim() == 4}
    return {name: 1 - float(weight.flatten(1).any(1).float().mean()) for name, weight in weights.items()}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Train one small network of each kind."""
    folder = tmp_path_factory.mktemp("networks")
    found = {}
    for kind in (DENSE, *KINDS):
        run = Run(kind, 0.0 if kind == DENSE else 0.5, 0)
        model, row = fitted(run, TASK, toy.data(), folder)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / run.file)
        found[kind] = SimpleNamespace(run=run, model=model, row=row)
    return folder, found


def test_kinds_differ_in_what_they_tie(networks):
    """Layers that a residual join ties agree with stream, may differ with free, and keep whole blocks when aligned."""
    _, found = networks
    assert not any(dead(found[DENSE].model).values())
    weights = dict(found["stream"].model.named_parameters())
    join = ("features.4.body.3.weight", "features.4.shortcut.0.weight")
    first, second = (weights[name].detach().flatten(1).any(1) for name in join)
    assert (first == second).all()
    assert not all(first)
    weights = dict(found["free"].model.named_parameters())
    first, second = (weights[name].detach().flatten(1).any(1) for name in join)
    assert not (first == second).all()
    assert all(layer.flatten(1).any(1).sum() % 8 == 0 for layer in _convolutions(found["aligned"].model))


def _convolutions(model):
    return [p.detach() for p in model.parameters() if p.dim() == 4]


@pytest.mark.slow
def test_latencies_are_of_the_same_function(networks):
    """A removal that broke a network would look fast."""
    folder, found = networks
    row = latency.measured(
        [found[kind].run for kind in (DENSE, "stream")], folder, Effort(0, 3, 3), TASK, plan_by_time=False
    )
    assert row["key"] == latency.KEY
    for item in row["runs"].values():
        assert item["error"] < 1e-5
        assert len(item["cpu_ms"]) == 3
    kept = {key.split("/")[1]: item["macs"] for key, item in row["runs"].items()}
    assert kept[DENSE] == 1
    assert kept["stream"] < 0.8


def test_networks_are_found_again(networks):
    """Latencies are measured on what was trained."""
    folder, found = networks
    again = stored(found["free"].run, TASK, folder)
    assert dead(again) == dead(found["free"].model)


def rows(accuracy):
    """Return rows of all runs: `accuracy` of kind, sparsity and seed; latency falls with sparsity."""
    trained = [
        {"key": run.key, "kind": run.kind, "asked": run.sparsity, "seed": run.seed,
         "accuracy": accuracy(run.kind, run.sparsity, run.seed)}
        for run in runs()
    ]  # fmt: skip
    times = {run.key: {"cpu_ms": [1 - run.sparsity] * 3, "macs": 1 - run.sparsity} for run in runs()}
    return [*trained, {"key": latency.KEY, "runs": times, "environment": {}}]


def test_the_better_kind_is_found_at_equal_latency(tmp_path):
    """Two points more at every latency are two points, whatever sparsities were asked for."""
    bonus = {"aligned": 2.0}
    found = rows(lambda kind, share, seed: 60 - 20 * share + seed + bonus.get(kind, 0) * (share > 0))
    summary = summarise(found, tmp_path)
    difference = summary["equal_latency"]["differences"]["aligned - stream"]
    assert 1 < difference["mean"] <= 2
    assert difference["verdict"] == "better"
    assert summary["equal_latency"]["differences"]["free - stream"]["verdict"] == "tied"
    assert json.loads((tmp_path / "mask_choice.json").read_text())["missing"] == []
    assert "aligned - stream" in (tmp_path / "mask_choice.md").read_text()
    assert (tmp_path / "mask_choice.png").stat().st_size > 1000


def test_noise_is_no_difference():
    """Seeds that disagree make a tie."""
    curves = {
        "free": {0: [(1, 60), (2, 70)], 1: [(1, 62), (2, 68)], 2: [(1, 58), (2, 71)]},
        "stream": {0: [(1, 62), (2, 68)], 1: [(1, 60), (2, 70)], 2: [(1, 60), (2, 69)]},
    }
    assert compared(curves)["differences"]["free - stream"]["verdict"] == "tied"


def test_kinds_that_share_no_latency_are_not_compared():
    """Reading a curve off beyond its ends would invent accuracies."""
    curves = {"free": {0: [(1, 60), (2, 70)]}, "stream": {0: [(3, 60), (4, 70)]}}
    assert compared(curves)["verdicts"] == {}


def test_half_a_run_can_be_summarised(tmp_path):
    """A seed without its latencies is left out; what is missing is named."""
    whole = rows(lambda _kind, share, _seed: 60 - share)
    assert summarise(whole[:4], tmp_path)["points"] == []
    assert len(missing({row["key"] for row in whole[:4]})) == len(runs()) - 4
    assert len(runs()) == 3 * (1 + sum(map(len, SPARSITIES.values())))
