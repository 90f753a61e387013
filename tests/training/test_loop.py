"""The loop: exact resume, divergence, bad data, interruption."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdp_export.errors import DataError, FileError, TrainingStoppedError, UsageError
from pdp_export.pruning import Pruner
from pdp_export.recipe import TrainingSection
from pdp_export.training import Progress, TrainingResult, evaluate, train
from tests.training.nets import (
    EPOCHS,
    STEPS,
    Classify,
    Data,
    dropout_net,
    fit,
    masked,
    noisy_data,
    same,
    weights,
)


class StopError(Exception):
    """Stands for a killed process."""


def stopping(at: int, error: type[BaseException]) -> Any:
    calls = 0

    def tick(_: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error

    return tick


def build(pruned: bool) -> tuple[nn.Module, Pruner | None]:
    model = dropout_net()
    return model, masked(model) if pruned else None


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, tuple[dict[str, Tensor], TrainingResult]]:
    outcome = {}
    for optimizer, pruned in (("sgd", False), ("sgd", True), ("adamw", True)):
        model, pruner = build(pruned)
        result = fit(tmp_path_factory.mktemp("whole"), model, pruner, optimizer=optimizer)
        outcome[optimizer, pruned] = (weights(model), result)
    return outcome


@pytest.mark.parametrize(("optimizer", "pruned"), [("sgd", False), ("sgd", True), ("adamw", True)])
@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [5, 7, 12, 20])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(uninterrupted, tmp_path, optimizer, pruned, error, at):
    """Order, dropout, augmentation, momentum, BatchNorm and masks must all go on as if nothing had happened."""
    model, pruner = build(pruned)
    with pytest.raises(error):
        fit(tmp_path, model, pruner, optimizer=optimizer, on_progress=stopping(at, error))
    torch.randn(5)  # another process would not share the random state
    model, pruner = build(pruned)
    result = fit(tmp_path, model, pruner, optimizer=optimizer)
    expected, whole = uninterrupted[optimizer, pruned]
    assert same(weights(model), expected)
    assert [record.model_dump(exclude={"seconds"}) for record in result.history] == [
        record.model_dump(exclude={"seconds"}) for record in whole.history
    ]
    assert result.metric == whole.metric
    if error is KeyboardInterrupt:
        assert result.resumed_at == at - (at > STEPS) - (at > 2 * STEPS + 1)


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(uninterrupted, tmp_path):
    """A seed that does nothing would make the resume test pass for the wrong reason."""
    model, _ = build(False)
    fit(tmp_path / "a", model)
    assert same(weights(model), uninterrupted["sgd", False][0])
    model, _ = build(False)
    fit(tmp_path / "b", model, seed=8)
    assert not same(weights(model), uninterrupted["sgd", False][0])


def test_finished_run_is_not_trained_again(uninterrupted, tmp_path):
    """Resume of a finished stage must hand back the same weights at once."""
    fit(tmp_path, dropout_net())
    model = dropout_net()
    ticks: list[Progress] = []
    result = fit(tmp_path, model, on_progress=ticks.append)
    assert ticks == []
    assert result.steps == result.resumed_at == EPOCHS * STEPS
    assert same(weights(model), uninterrupted["sgd", False][0])


def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(uninterrupted, tmp_path):
    """An update cut in two (BatchNorm moved, weights not) must never reach a checkpoint."""

    class Impatient(Classify):
        calls = 0

        def loss(self, outputs: Any, target: Any) -> Tensor:
            Impatient.calls += 1
            if Impatient.calls == 9:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(outputs, target)

    arguments = {"epochs": EPOCHS, "lr": 0.05, "seed": 7, "checkpoint_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        train(
            dropout_net(),
            noisy_data(),
            Impatient(),
            TrainingSection(threads=1, device="cpu", checkpoint_every_steps=0),
            **arguments,
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    model = dropout_net()
    result = fit(tmp_path, model)
    assert result.resumed_at == 9
    assert same(weights(model), uninterrupted["sgd", False][0])


def test_divergence_names_the_layer_and_keeps_the_last_good_checkpoint(tmp_path):
    """NaN must stop at the layer where it starts; a checkpoint of NaN weights would end the run for good."""

    class Breaking(nn.Module):
        def __init__(self, after: int = 9) -> None:
            super().__init__()
            self.after = after
            self.body, self.bad, self.head = (
                dropout_net()[:6],
                nn.Identity(),
                nn.Sequential(nn.Flatten(), nn.Linear(32, 4)),
            )
            self.calls = 0
            self.bad.register_forward_hook(self._break)

        def _break(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            self.calls += self.training
            return output * float("nan") if self.calls > self.after else output

        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.bad(self.body(image)))

    with pytest.raises(TrainingStoppedError) as caught:
        fit(tmp_path, Breaking())
    assert caught.value.where == "bad"
    assert "step 10" in str(caught.value)
    assert caught.value.exit_code == 11
    result = fit(tmp_path, Breaking(after=100))
    assert result.resumed_at == 8


def test_infinite_gradient_stops_before_it_reaches_the_weights(tmp_path):
    """A finite loss with an infinite gradient ruins every weight one step later, far from the cause."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(108, 4), nn.Linear(4, 4)

        def forward(self, image: Tensor) -> Tensor:
            return self.second(self.first(image.flatten(1)) * 0).sqrt() + self.first(image.flatten(1))

    model = Root()
    with torch.no_grad():
        model.second.bias.zero_()
    before = weights(model)
    with pytest.raises(TrainingStoppedError, match="gradient"):
        fit(tmp_path, model)
    assert same(weights(model), before)


def test_nan_in_the_data_is_not_blamed_on_a_layer(tmp_path):
    """The user must look at the loader, not at the first convolution."""
    batch = (torch.full((4, 3, 6, 6), float("nan")), torch.zeros(4, dtype=torch.long))
    with pytest.raises(TrainingStoppedError, match="input 0 of the batch"):
        fit(tmp_path, dropout_net(), data=Data([batch], [batch]))


def _batch(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape), torch.zeros(shape[0], dtype=torch.long)


class _Endless:
    def __iter__(self) -> Any:
        return iter([_batch(4, 3, 6, 6)])


class _Short(_Endless):
    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("train_loader", "validation", "message"),
    [
        ([], [_batch(4, 3, 6, 6)], "the train loader is empty"),
        ([_batch(4, 3, 6, 6)], [], "the validation loader is empty"),
        ([_batch(4, 3, 6, 6), _batch(4, 3, 7, 7)], [_batch(4, 3, 6, 6)], "changed from"),
        ([_batch(4, 3, 6, 6), _batch(0, 3, 6, 6)], [_batch(4, 3, 6, 6)], "is empty"),
        ([_batch(4, 3, 6, 6), torch.zeros(4)], [_batch(4, 3, 6, 6)], "not a pair"),
        (_Endless(), [_batch(4, 3, 6, 6)], "has no length"),
        (_Short(), [_batch(4, 3, 6, 6)], "says 5 batches and yields 1"),
    ],
)
def test_bad_loaders_are_named(tmp_path, train_loader, validation, message):
    """An empty or changing loader must be told as such, not as a shape error deep in the model."""
    with pytest.raises(DataError) as caught:
        fit(tmp_path, dropout_net(), data=Data(train_loader, validation))
    assert message in str(caught.value)


def test_dynamic_axes_may_change(tmp_path):
    """Sequences of different lengths are legal where the recipe says so."""
    data = Data([_batch(4, 3, 6, 6), _batch(4, 3, 6, 8)], [_batch(4, 3, 6, 6)])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert fit(tmp_path, model, data=data, dynamic={0: [3]}).steps == 2 * EPOCHS


def test_unknown_device_is_refused(tmp_path):
    """A typing error in the device must not end in Fabric's traceback."""
    with pytest.raises(UsageError, match="cannot be used"):
        fit(tmp_path, dropout_net(), device="gpuu")


def test_checkpoints_of_other_settings_are_foreign(tmp_path):
    """Going on from a checkpoint of another learning rate would give neither run's result."""
    fit(tmp_path, dropout_net())
    with pytest.raises(FileError, match=r"lr is 0\.05 instead of 0\.1"):
        fit(tmp_path, dropout_net(), lr=0.1)


def test_progress_reports_every_step_and_every_validation(tmp_path):
    """Bars are drawn from these ticks; a missing last tick leaves them hanging."""
    ticks: list[Progress] = []
    fit(tmp_path, dropout_net(), on_progress=ticks.append, phase="dense")
    assert len(ticks) == EPOCHS * (STEPS + 1)
    assert [(tick.epoch, tick.step) for tick in ticks[:8]] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (1, 5),
        (1, 6),
        (1, 6),
        (2, 1),
    ]
    assert ticks[0].metric is None
    assert ticks[-1].metric is not None
    assert ticks[-1].phase == "dense"


def test_threads_and_modes_are_given_back(tmp_path):
    """A library call must not leave the process on one thread, or the model in training mode."""
    before = torch.get_num_threads()
    model = dropout_net()
    fit(tmp_path, model)
    assert torch.get_num_threads() == before
    assert not model.training


def test_evaluate_is_a_mean_over_samples_and_restores_modes():
    """Averaging batch means overweights a short last batch; a frozen BatchNorm must stay in eval mode."""

    class Third(Classify):
        def scores(self, outputs: Any, target: Any) -> Tensor:
            return target.float() + 0 * outputs.sum()

    model = dropout_net().train()
    model[1].eval()
    loader = [(torch.randn(3, 3, 6, 6), torch.zeros(3)), (torch.randn(1, 3, 6, 6), torch.ones(1))]
    assert evaluate(model, loader, Third()) == 0.25
    assert model.training
    assert not model[1].training


def test_dict_batches_follow_the_recipes_order(tmp_path):
    """A dict whose order differs from forward() must not swap the inputs."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.layer(left) + right.sum()

    batch = ({"right": torch.randn(2, 3), "left": torch.randn(2, 5)}, torch.zeros(2, dtype=torch.long))
    assert fit(tmp_path, Two(), data=Data([batch], [batch]), input_names=("left", "right")).steps == EPOCHS


def test_mixed_precision_trains_and_prunes(tmp_path):
    """Masks are computed in float32 under autocast; the weights must stay float32."""
    model, pruner = build(True)
    result = fit(tmp_path, model, pruner, precision="bf16-mixed")
    assert pruner is not None
    assert pruner.harden().sparsity == pytest.approx(0.5, abs=0.01)
    assert model[3].weight.dtype is torch.float32
    assert result.history[-1].sparsity == pytest.approx(0.5, abs=0.01)
