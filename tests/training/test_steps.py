"""Accumulated steps, averaged weights and per-epoch mask statistics, interrupted or not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pdp_export.errors import TrainingStoppedError
from pdp_export.pruning import AccuracyRule, Pruner, Schedule, Unstructured
from pdp_export.training import TrainingResult
from pdp_export.training.weight_average import WeightAverage
from tests.training.nets import (
    EPOCHS,
    STEPS,
    Classify,
    Data,
    close,
    dropout_net,
    fit,
    fixed_data,
    masked,
    noisy_data,
    plain_net,
    same,
    weights,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "accumulate": {"accumulate": 4},
    "ema": {"ema": 0.9},
    "both": {"accumulate": 4, "ema": 0.9, "optimizer": "adamw", "checkpoint_every_steps": 1},
}


class StopError(Exception):
    """Stands for a killed process."""


def stopping(at: int, error: type[BaseException]) -> Any:
    calls = 0

    def tick(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error

    return tick


def merged(data: Data, sizes: list[int]) -> Data:
    """The batches of `data` joined: the next ``sizes[0]`` of them make the first, and so on."""
    parts, batches = list(data.train), []
    for size in sizes:
        taken, parts = parts[:size], parts[size:]
        batches.append((torch.cat([image for image, _ in taken]), torch.cat([label for _, label in taken])))
    return Data(batches, data.validation)


@pytest.mark.parametrize(("accumulate", "sizes"), [(2, [2, 2, 2]), (3, [3, 3])])
def test_accumulated_batches_act_like_one_large_batch(tmp_path: Path, accumulate: int, sizes: list[int]):
    """Pins a summed instead of averaged loss, gradients cleared too early, or masks that move per batch."""
    small, large = plain_net(), plain_net()
    pruners = [masked(small), masked(large)]
    first = fit(tmp_path / "a", small, pruners[0], fixed_data(), accumulate=accumulate, epochs=2)
    second = fit(tmp_path / "b", large, pruners[1], merged(fixed_data(), sizes), epochs=2)
    assert close(weights(small), weights(large))
    assert first.steps == 2 * STEPS
    assert first.history[-1].lr == pytest.approx(second.history[-1].lr)
    assert [row.threshold for row in pruners[0].statistics()] == pytest.approx(
        [row.threshold for row in pruners[1].statistics()], rel=1e-4
    )


def test_the_last_step_of_an_epoch_takes_what_is_left(tmp_path: Path):
    """Pins batches of an epoch's end that are lost, or weighted as if their group were full."""
    small, large, pruned = plain_net(), plain_net(), plain_net()
    fit(tmp_path / "a", small, None, fixed_data(), accumulate=4, lr_schedule="constant")
    fit(tmp_path / "b", large, None, merged(fixed_data(), [4, 2]), lr_schedule="constant")
    assert close(weights(small), weights(large))
    pruner, calls = masked(pruned), []
    step = pruner.step
    pruner.step = lambda progress=None: (calls.append(progress), step(progress))[1]  # type: ignore[method-assign]
    fit(tmp_path / "c", pruned, pruner, fixed_data(), accumulate=4, epochs=1)
    assert calls == pytest.approx([4 / 6, 1.0])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Tensor], TrainingResult]]:
    outcome = {}
    for name, settings in VARIANTS.items():
        model = dropout_net()
        result = fit(tmp_path_factory.mktemp("whole"), model, masked(model), **settings)
        outcome[name] = (weights(model), result)
    return outcome


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [3, 6, 12])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(uninterrupted, tmp_path, name, error, at):
    """Pins a checkpoint in the middle of a group of batches, a forgotten average, or churn that starts over."""
    model = dropout_net()
    pruner = masked(model)
    with pytest.raises(error):
        fit(tmp_path, model, pruner, on_progress=stopping(at, error), **VARIANTS[name])
    torch.randn(5)
    model = dropout_net()
    pruner = masked(model)
    result = fit(tmp_path, model, pruner, **VARIANTS[name])
    expected, whole = uninterrupted[name]
    assert same(weights(model), expected)
    assert [record.model_dump(exclude={"seconds"}) for record in result.history] == [
        record.model_dump(exclude={"seconds"}) for record in whole.history
    ]


def test_the_average_is_what_is_measured_and_handed_on(tmp_path: Path):
    """Pins an average that is kept but not used, or a metric of other weights than those that are saved."""

    class Watching(Classify):
        def __init__(self) -> None:
            self.measured: list[Tensor] = []

        def scores(self, outputs: Any, target: Any) -> Tensor:
            self.measured.append(outputs.clone())
            return super().scores(outputs, target)

    objective, model = Watching(), dropout_net()
    pruner, data = masked(model), noisy_data()
    result = fit(tmp_path, model, pruner, data, ema=0.9, objective=objective)
    plain = dropout_net()
    fit(tmp_path / "plain", plain, masked(plain))
    assert not same(weights(model), weights(plain))
    with torch.no_grad():
        again = model(data.validation[0][0])
    assert torch.equal(again, objective.measured[-1])
    assert result.metric == float(Classify().scores(again, data.validation[0][1]).mean())
    assert pruner.harden().sparsity == pytest.approx(0.5, abs=0.01)


def test_the_masks_of_the_average_belong_to_the_average(tmp_path: Path):
    """Pins thresholds of the trained weights laid over averaged ones: the share pruned would drift."""
    model = dropout_net()
    pruner = masked(model)
    fit(tmp_path, model, pruner, ema=0.9, lr=0.3)
    counts = [int((mask.scores() < mask.threshold).sum()) for mask in pruner.masks]
    assert counts == [mask.target for mask in pruner.masks]


def test_the_average_of_a_short_run_is_not_the_start(tmp_path: Path):
    """Pins an average that still holds the untrained weights at the end of a short run."""
    start, averaged, plain = plain_net(), plain_net(), plain_net()
    fit(tmp_path / "a", averaged, data=fixed_data(), ema=0.9999, lr=0.02, lr_schedule="constant")
    fit(tmp_path / "b", plain, data=fixed_data(), lr=0.02, lr_schedule="constant")
    first, mean, last = (net[0].weight.detach() for net in (start, averaged, plain))
    rest = (mean - last).norm() / (first - last).norm()
    assert 0 < float(rest) < 0.5


def test_every_epoch_records_every_mask(tmp_path: Path):
    """Pins a report that can plot the last epoch only."""
    model = dropout_net()
    result = fit(tmp_path, model, masked(model))
    assert [[row.name for row in record.layers] for record in result.history] == [["0", "3"]] * EPOCHS
    assert result.history[0].layers[0].churn is None
    assert all(row.churn is not None for record in result.history[1:] for row in record.layers)
    assert result.history[-1].layers[0].current > result.history[0].layers[0].current


def test_warmup_by_accuracy_hears_every_validation(tmp_path: Path):
    """Pins an accuracy rule that waits forever because nobody tells it the metric."""
    model = dropout_net()
    pruner = Pruner(model, Unstructured(0.5), Schedule(AccuracyRule(0.7, 2), ramp_end=1.0), prune_first=True)
    result = fit(tmp_path, model, pruner, objective=Sure(), epochs=8)
    shares = [record.sparsity or 0.0 for record in result.history]
    assert shares[:2] == [0.0, 0.0]
    assert shares[2] > 0


class Sure(Classify):
    """Every validation reaches the rule's level."""

    def scores(self, outputs: Any, target: Any) -> Tensor:
        return 0 * super().scores(outputs, target) + 0.75


def ruled(folder: Path, **changes: Any) -> dict[str, Tensor]:
    model = dropout_net()
    pruner = Pruner(model, Unstructured(0.5), Schedule(AccuracyRule(0.7, 2), ramp_end=1.0), prune_first=True)
    fit(folder, model, pruner, objective=Sure(), epochs=6, checkpoint_every_steps=0, **changes)
    return weights(model)


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, at: int) -> None:
    """Send Ctrl-C at the end of call number `at` (from 1) of a method."""
    original, calls = getattr(owner, name), []

    def impatient(self: Any, *arguments: Any) -> Any:
        calls.append(name)
        result = original(self, *arguments)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, impatient)


def test_a_validation_counts_once_although_ctrl_c_comes_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pins an accuracy rule that is told the same epoch's metric again on resuming, and starts the ramp early."""
    expected = ruled(tmp_path / "a")
    with monkeypatch.context() as patch:
        interrupt(patch, Pruner, "statistics", 1)
        with pytest.raises(KeyboardInterrupt):
            ruled(tmp_path / "b")
    assert same(ruled(tmp_path / "b"), expected)


def test_ctrl_c_while_the_average_is_swapped_in_saves_the_trained_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Pins a checkpoint that holds averaged weights where the trained ones belong."""
    expected = ruled(tmp_path / "a", ema=0.9)
    with monkeypatch.context() as patch:
        interrupt(patch, WeightAverage, "write", 2)
        with pytest.raises(KeyboardInterrupt):
            ruled(tmp_path / "b", ema=0.9)
    assert same(ruled(tmp_path / "b", ema=0.9), expected)


def test_a_gradient_that_diverges_inside_a_group_stops_before_the_step(tmp_path: Path):
    """Pins a NaN that hides among accumulated gradients until it has reached the weights."""

    class Breaking(Classify):
        calls = 0

        def loss(self, outputs: Any, target: Any) -> Tensor:
            Breaking.calls += 1
            value = super().loss(outputs, target)
            return value * float("nan") if Breaking.calls >= 2 else value

    model = plain_net()
    before = weights(model)
    with pytest.raises(TrainingStoppedError, match="step 2"):
        fit(tmp_path, model, data=fixed_data(), accumulate=4, objective=Breaking())
    assert same(weights(model), before)
