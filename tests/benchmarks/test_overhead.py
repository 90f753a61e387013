"""The overhead benchmark: what it measures, and how."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.pruning_overhead import memory, timing
from benchmarks.pruning_overhead.arms import ARMS, SPARSITY, attach, pruned_layers
from benchmarks.pruning_overhead.subjects import SUBJECTS, Subject, step
from pdp_export.pruning import Pruner, Unstructured


def net():
    """Four linear layers, of which the first and the last stay dense."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(16, 16) for _ in range(3)], nn.Linear(16, 10))


TINY = Subject("tiny", net, 4, "", "sgd", lambda batch: torch.randn(batch, 16), 3)


def zeros(module):
    """Return the share of zeros in what the forward pass uses."""
    return float((module.weight == 0).float().mean())


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.split("/")[0] in ("gradual", "st3", "coremltools")])
def test_arms_prune_the_same_layers_as_they_are_measured(arm):
    """An arm that prunes nothing costs nothing."""
    model = net()
    after, optimizer, data = attach(arm, model), TINY.make_optimizer(model), TINY.data(4)
    for _ in range(9):
        step(model, optimizer, data)
        after()
    assert zeros(model[0]) == zeros(model[3]) == 0
    assert 0.3 < zeros(model[1]) < SPARSITY
    assert 0.3 < zeros(model[2]) < SPARSITY


def test_pruned_layers_are_those_of_the_pruner():
    """The tool is told to prune these; module names and mask names must agree."""
    assert pruned_layers(net()) == [mask.name for mask in Pruner(net(), Unstructured(0.5)).masks] == ["1", "2"]


def test_every_arm_runs_in_every_block():
    """A mean over fewer steps than a refresh would leave its cost out."""
    calls = {"dense": 0, "other": 0}

    def count(name):
        calls[name] += 1

    samples = timing.interleave({name: lambda name=name: count(name) for name in calls}, blocks=3)
    assert calls == {"dense": 4 * timing.PERIOD, "other": 4 * timing.PERIOD}
    assert samples["dense"].shape == (3, 1)
    assert all(every <= timing.PERIOD for _, every in ARMS.values())


def test_figures_are_ratios_of_medians():
    """The ratio must be to dense, and its interval must hold it."""
    dense = np.array([[10.0], [11.0], [12.0], [10.5]])
    found = timing.figures(1.1 * dense, dense)
    assert found["ratio"] == pytest.approx(1.1)
    assert found["low"] <= 1.1 <= found["high"]
    assert found["added_ms"] == pytest.approx(1.075)


def test_measure_times_arms_against_dense():
    """The whole path, on a tiny network."""
    found = timing.measure(TINY, ["dense", "again", "pdp_default/16"], 4, 3)
    assert set(found["arms"]) == {"dense", "again", "pdp_default/16"}
    assert found["arms"]["dense"]["ratio"] == 1.0
    assert found["arms"]["pdp_default/16"]["step_ms"] > 0


def test_memory_of_a_process_is_its_own(monkeypatch):
    """The parent's peak, inherited through fork, would make every arm look alike."""
    seen = []

    def fake(subject, arm, batch):
        seen.append((subject, arm, batch))
        return {"start": 100, "peak": {"dense": 200, "st3/16": 210}[arm]}

    monkeypatch.setattr(memory, "_in_process", fake)
    found = memory.measure("tiny", ["dense", "again", "st3/16"], 4)
    assert seen == [("tiny", "dense", 4), ("tiny", "st3/16", 4)]
    assert found["st3/16"]["ratio"] == pytest.approx(1.1)
    assert found["st3/16"]["ratio_of_process"] == pytest.approx(1.05)


@pytest.mark.slow
def test_memory_is_measured_in_a_fresh_process():
    """The command that measures memory must start, train and answer."""
    found = memory.measure("mobilenet_v1-32", ["dense", "pdp_default/16"], 2)
    assert 0 < found["dense"]["training_bytes"] < found["dense"]["peak_bytes"]


def test_subjects_are_the_sizes_they_claim():
    """A ResNet-50 with the wrong width would be another benchmark."""
    with torch.device("meta"):
        sizes = {name: sum(item.numel() for item in subject.build().parameters()) for name, subject in SUBJECTS.items()}
    assert sizes["mobilenet_v1-32"] == pytest.approx(3.2e6, rel=0.02)
    assert sizes["resnet50-64"] == pytest.approx(23.5e6, rel=0.02)
    assert sizes["bert_base"] == pytest.approx(109e6, rel=0.02)
