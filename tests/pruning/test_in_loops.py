"""The Pruner in loops with mixed precision, accumulation and averaging, and what it says to misuse."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from pdp_export.errors import TrainingStoppedError, UsageError
from pdp_export.pruning import NM, Block, Channel, Pruner, Schedule, Unstructured
from pdp_export.pruning.averaging import rebind

PATTERNS = [Unstructured(0.7), NM(2, 4), Block(0.5, 2, 2), Channel(0.5, align=1)]
SOME = [PATTERNS[0], *(pytest.param(pattern, marks=pytest.mark.slow) for pattern in PATTERNS[1:3]), PATTERNS[3]]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 8, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def prune(model: nn.Module, pattern=PATTERNS[0], **options) -> Pruner:
    return Pruner(model, pattern, Schedule(0.1, 0.7), (batch(0)[0],), **options)


def train(model, called, pruner, steps, total=None, after=lambda: None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(1, steps + 1):
        inputs, target = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(called(inputs), target).backward()
        optimizer.step()
        pruner.step(step / (total or steps))
        after()


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize(
    "preset", ["default", *(pytest.param(name, marks=pytest.mark.slow) for name in ("paper", "rectified"))]
)
def test_autocast_leaves_the_mask_in_float32(pattern, preset):
    """In bfloat16 w^2 - t^2 has two digits: weights near the threshold would get the masks of others."""
    model = net()
    pruner = prune(model, pattern, preset=preset)
    train(model, model, pruner, steps=5, total=10)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    exact = [layer.weight.detach().clone() for layer in layers]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for layer, weight in zip(layers, exact, strict=True):
            assert layer.weight.dtype is torch.float32
            assert torch.equal(layer.weight, weight)
        pruner.step(0.5)
        inside = [mask.threshold.clone() for mask in pruner.masks]
    pruner.refreshing.restore({"since": 100, "progress": 0.0})
    pruner.step(0.5)
    assert all(torch.equal(mask.threshold, before) for mask, before in zip(pruner.masks, inside, strict=True))


def test_autocast_trains_to_exact_zeros():
    """Gradients of a bfloat16 graph must reach the float32 weights behind the masks."""
    model = net()
    pruner = prune(model)

    def called(inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(inputs)

    train(model, called, pruner, steps=20)
    report = pruner.harden()
    assert report.zeros == round(0.7 * report.elements)
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_accumulated_gradients_equal_those_of_the_whole_batch(pattern):
    """Masks stand still between optimizer steps, so two halves must add up to the whole."""
    model = net().eval()
    pruner = prune(model, pattern)
    train(model, model, pruner, steps=5, total=10)
    inputs, target = batch(99)
    gradients = []
    for parts in (1, 2):
        model.zero_grad()
        for part in range(parts):
            rows = slice(part * 8 // parts, (part + 1) * 8 // parts)
            (F.cross_entropy(model(inputs[rows]), target[rows]) / parts).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for whole, halves in zip(*gradients, strict=True):
        torch.testing.assert_close(halves, whole)


@pytest.mark.parametrize("pattern", SOME, ids=repr)
def test_averaged_weights_are_hardened_by_their_own_magnitudes(pattern):
    """An average of pruned and kept values is dense: its zeros must come from the average, not from the live masks."""
    model = net()
    pruner = prune(model, pattern)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    train(model, model, pruner, steps=20, after=lambda: averaged.update_parameters(model))
    keys = set(net().state_dict())
    live = {name: value.clone() for name, value in model.state_dict().items()}
    average = rebind(pruner, averaged.module)
    update_bn([batch(step)[0] for step in range(4)], averaged)
    soft = averaged.eval()(batch(0)[0])
    report = average.harden()
    assert (averaged(batch(0)[0]) - soft).abs().max() < 0.05 * soft.abs().max()
    assert all(torch.equal(value, live[name]) for name, value in model.state_dict().items())
    assert set(averaged.module.state_dict()) == keys
    assert report.zeros == pruner.harden().zeros
    assert not torch.equal(averaged.module[6].weight, model[6].weight)


def test_average_can_be_looked_at_while_training_goes_on():
    """Validating the average in between must not disturb the masks of the live model."""
    lone, watched = net(), net()
    train(lone, lone, one := prune(lone), steps=12)
    pruner = prune(watched)
    averaged = AveragedModel(watched)

    def look() -> None:
        averaged.update_parameters(watched)
        average = rebind(pruner, averaged.module)
        assert average.progress == pruner.progress
        assert average.sparsity == pytest.approx(pruner.sparsity)

    train(watched, watched, pruner, steps=12, after=look)
    one.harden(), pruner.harden()
    assert all(torch.equal(a, b) for a, b in zip(lone.parameters(), watched.parameters(), strict=True))


def test_snapshot_outlives_the_hardening_of_its_original():
    """Deep copies share a class with the original: taking the masks off it once left the best model without weights."""
    model = net()
    pruner = prune(model)
    train(model, model, pruner, steps=10, total=20)
    snapshot = copy.deepcopy(model)
    before = snapshot.eval()(batch(0)[0])
    pruner.harden()
    assert torch.equal(snapshot(batch(0)[0]), before)
    assert not nn.utils.parametrize.is_parametrized(model[6])


def test_copies_without_these_masks_are_refused():
    """A copy made too early or too late would be hardened to nothing."""
    early = copy.deepcopy(model := net())
    pruner = prune(model)
    with pytest.raises(UsageError, match="does not carry the masks"):
        rebind(pruner, early)
    with pytest.raises(UsageError, match="own model"):
        rebind(pruner, model)


class Twice(nn.Module):
    """One layer that is run twice, and a decoder tied to its embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.head = nn.Embedding(24, 8), nn.Linear(8, 8), nn.Linear(8, 24, bias=False)
        self.again = self.mix
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.again(F.relu(self.mix(self.embed(tokens)))))


def test_tied_and_reused_weights_are_trained_and_pruned_once():
    """Counted twice they distort the budget; hardened twice, soft values would be squared."""
    model, tokens = Twice(), torch.arange(24).view(4, 6)
    pruner = Pruner(model, Unstructured(0.6), Schedule(0.1, 0.7), (tokens,), prune_first=True, prune_last=True)
    assert sorted(mask.size for mask in pruner.masks) == [64, 192]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 21):
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step(step / 20)
    soft = model(tokens)
    report = pruner.harden()
    assert report.elements == 256
    assert report.zeros == round(0.6 * 256) == int((model.mix.weight == 0).sum() + (model.embed.weight == 0).sum())
    assert model.head.weight is model.embed.weight
    assert model.again is model.mix
    assert (model(tokens) - soft).abs().max() < 0.05 * soft.abs().max()


@pytest.mark.parametrize("pattern", SOME, ids=repr)
def test_equal_weights_are_pruned_the_same_way_every_time(pattern):
    """With all weights equal the zeros must not depend on the run, and their number must still be exact."""
    hardened = []
    for _ in range(2):
        model = net()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.5)
        pruner = prune(model, pattern)
        for step in range(1, 11):
            pruner.step(step / 10)
        report = pruner.harden()
        assert report.asked == pytest.approx(pattern.sparsity, abs=0.01)
        hardened.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*hardened, strict=True))
    assert all(parameter.isfinite().all() for parameter in hardened[0])


@pytest.mark.parametrize("call", [lambda pruner: pruner.step(1.0), lambda pruner: pruner.harden()])
def test_nan_that_training_brings_is_found_at_once(call):
    """A diverged layer would train on, and be exported as NaN with the right number of zeros."""
    model = net()
    pruner = prune(model)
    pruner.step(0.5)
    with torch.no_grad():
        model[6].parametrizations.weight.original[0, 0, 0, 0] = torch.nan
    with pytest.raises(TrainingStoppedError) as caught:
        call(pruner)
    assert caught.value.where == "6.weight"


def _replaced_layer(model):
    model[6] = nn.Conv2d(8, 32, 3, padding=1)


def _replaced_weight(model):
    nn.utils.parametrize.remove_parametrizations(model[6], "weight")
    model[6].weight = nn.Parameter(torch.randn(32, 8, 3, 3))


def _frozen(model):
    model[6].parametrizations.weight.original.requires_grad_(False)


@pytest.mark.parametrize("change", [_replaced_layer, _replaced_weight])
@pytest.mark.parametrize("call", ["step", "harden"])
def test_model_changed_under_the_masks_is_noticed(change, call):
    """Pruning would go on in a layer that the model does not use any more, and export it dense."""
    model = net()
    pruner = prune(model)
    pruner.step(0.5)
    change(model)
    with pytest.raises(UsageError, match="changed after the Pruner"):
        pruner.step(0.6) if call == "step" else pruner.harden()


def test_layer_frozen_in_the_middle_keeps_its_budget():
    """Freezing a masked layer later is allowed: its zeros are those of the weights that it has."""
    model = net()
    pruner = prune(model)
    train(model, model, pruner, steps=5, total=10)
    _frozen(model)
    before = model[6].parametrizations.weight.original.detach().clone()
    train(model, model, pruner, steps=10)
    report = pruner.harden()
    assert report.zeros == round(0.7 * report.elements)
    assert not model[6].weight.requires_grad
    assert bool(before[model[6].weight == 0].abs().max() <= before[model[6].weight != 0].abs().min())
