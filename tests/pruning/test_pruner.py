"""The Pruner in a plain training loop: exact zeros, tied weights, named refusals."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pdp_export.errors import CaptureError, FileError, TrainingStoppedError, UsageError
from pdp_export.pruning import NM, Block, Channel, Pruner, Schedule, Unstructured
from sample_models.mobilenet_v1 import mobilenet_v1


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 9, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    )


def run(model: nn.Module, pruner: Pruner, steps: int = 30, total: int = 30, lr: float = 0.05) -> None:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    image, target = torch.randn(16, 3, 8, 8), torch.randint(0, 4, (16,))
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        F.cross_entropy(model(image), target).backward()
        optimizer.step()
        pruner.step(step / total)


def test_attached_masks_change_nothing_before_the_ramp():
    """Switching PDP on halved every weight under sqrt(tau) elsewhere; at ratio 0 the output must be the same bits."""
    model, image = small_net().eval(), torch.randn(2, 3, 8, 8)
    before = model(image)
    pruner = Pruner(model, Unstructured(0.9))
    pruner.step(0.05)
    assert torch.equal(model(image), before)


def test_hardened_zeros_are_exactly_the_asked_ones_and_positive():
    """round(r n) zeros over all masks, +0.0 each, and an ordinary module afterwards."""
    model = small_net()
    keys = set(model.state_dict())
    pruner = Pruner(model, Unstructured(0.8), example_inputs=(torch.randn(2, 3, 8, 8),))
    run(model, pruner)
    report = pruner.harden()
    weights = [model[3].weight, model[6].weight]
    size = sum(weight.numel() for weight in weights)
    assert report.zeros == round(0.8 * size) == sum(int((weight == 0).sum()) for weight in weights)
    assert report.sparsity == pytest.approx(report.asked) == pytest.approx(0.8, abs=1e-4)
    assert not any(bool(torch.signbit(weight[weight == 0]).any()) for weight in weights)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert set(model.state_dict()) == keys
    assert report.warnings == ()


def test_hardening_hardly_changes_the_trained_function():
    """With the default preset the deployed mask must be the trained one: no soft-hard gap."""
    model, image = small_net(), torch.randn(8, 3, 8, 8)
    pruner = Pruner(model, Unstructured(0.8))
    run(model, pruner)
    model.eval()
    soft = model(image)
    pruner.harden()
    assert float((model(image) - soft).detach().abs().max()) < 1e-2 * float(soft.detach().abs().max())


def test_pruned_weights_come_back():
    """PDP is no one-way street: the kept set must still change after the full ratio is reached."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.5), Schedule(0.0, 0.1))
    run(model, pruner, steps=10)
    pruner.statistics()
    run(model, pruner, steps=5, total=10)
    assert max(row.churn or 0 for row in pruner.statistics()) > 0


def test_parameters_keep_their_identity():
    """An optimizer built before the Pruner must go on training the very same parameters."""
    model = small_net()
    before = dict(model.named_parameters())
    pruner = Pruner(model, Unstructured(0.5))
    run(model, pruner)
    pruner.harden()
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_default_rules_name_what_is_left_dense():
    """Stem, classifier and depthwise layers stay dense, each with its reason in the report."""
    pruner = Pruner(mobilenet_v1(10, 0.25, 3), Unstructured(0.5), example_inputs=(torch.randn(2, 3, 32, 32),))
    reasons = {item.layer: item.reason for item in pruner.skipped}
    assert "first layer" in reasons["features.0.0"]
    assert "depthwise" in reasons["features.1.0"]
    assert "produces the output" in reasons["classifier"]
    assert [mask.name for mask in pruner.masks] == ["features.2.0", "features.4.0", "features.6.0"]


def test_first_and_last_follow_the_graph_not_the_definition():
    """A classifier defined first must still count as the last layer."""

    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 2)
            self.body = nn.Linear(16, 16)
            self.stem = nn.Linear(8, 16)

        def forward(self, x):
            x = F.relu(self.stem(x))
            return self.head(x + F.relu(self.body(x)))

    pruner = Pruner(Backwards(), Unstructured(0.5), example_inputs=(torch.randn(2, 8),))
    assert [mask.name for mask in pruner.masks] == ["body"]


def test_embedding_is_the_stem_of_a_token_network():
    """Through a residual stream every layer sees the input; the first linear layer must not count as a stem."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, tokens):
            x = self.embed(tokens)
            return self.head((x + self.mix(x)).mean(1))

    pruner = Pruner(Tokens(), Unstructured(0.5), example_inputs=(torch.zeros(2, 5, dtype=torch.long),))
    assert [mask.name for mask in pruner.masks] == ["mix"]
    assert {item.layer for item in pruner.skipped} == {"embed", "head"}


def test_tied_weights_are_pruned_once_and_stay_tied():
    """A shared matrix counted twice would distort the budget and break the tie on hardening."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.mix(self.embed(tokens)))

    model = Tied()
    pruner = Pruner(model, Unstructured(0.5), Schedule(0.0, 0.5), prune_first=True, prune_last=True)
    assert sorted(mask.size for mask in pruner.masks) == [36, 72]
    pruner.step(0.3)
    assert torch.equal(model.embed.weight, model.head.weight)
    pruner.step(1.0)
    report = pruner.harden()
    assert model.head.weight is model.embed.weight
    assert report.zeros == 54


def test_unfinished_ramp_is_completed_with_a_warning():
    """Stopping early must deliver the ratio asked for and say that it was not trained."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.7))
    run(model, pruner, steps=10)
    report = pruner.harden()
    assert "ramp" in report.warnings[0]
    assert report.sparsity == pytest.approx(0.7, abs=1e-3)


def test_soft_paper_preset_warns_before_it_costs_accuracy():
    """A constant temperature far above t^2 leaves a soft mask: 13 points were lost silently elsewhere."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.5), preset="paper", temperature=1.0)
    run(model, pruner)
    assert pruner.warnings() != []
    report = pruner.harden()
    assert any("still soft" in warning for warning in report.warnings)
    assert report.gap > 0.4


def test_boundary_gain_of_the_paper_preset_warns():
    """A tiny constant temperature multiplies the learning rate at the threshold by thousands."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.5), preset="paper", temperature=1e-6)
    pruner.step(1.0)
    assert any("gain" in warning for warning in pruner.warnings())
    assert Pruner(small_net(), Unstructured(0.5)).warnings() == []


def test_mask_is_recomputed_from_the_final_weights():
    """A mask saved earlier lags the weights; the zeros must be the smallest weights at the end."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.5), Schedule(0.0, 0.5))
    pruner.step(1.0)
    with torch.no_grad():
        model[3].parametrizations.weight.original.copy_(torch.randn(16, 8, 3, 3))
    raw = model[3].parametrizations.weight.original.detach().clone()
    pruner.harden()
    dead = model[3].weight == 0
    assert float(raw[dead].abs().max()) < float(raw[~dead].abs().min())


def test_state_travels_as_tensors_and_json():
    """A pruner restored in another process must give the same masks and counters."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.6))
    run(model, pruner, steps=15)
    state = pruner.state_dict()
    twin = small_net()
    other = Pruner(twin, Unstructured(0.6))
    twin.load_state_dict(model.state_dict())
    other.load_state_dict({"meta": json.loads(json.dumps(state["meta"])), "tensors": state["tensors"]})
    assert torch.equal(twin[3].weight, model[3].weight)
    assert other.statistics() == pruner.statistics()
    with pytest.raises(FileError, match="another model"):
        Pruner(mobilenet_v1(10, 0.25, 3), Unstructured(0.6)).load_state_dict(state)


def test_copies_for_averaging_are_independent():
    """An EMA deepcopy must carry its own masks, not point into the live model."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.6), Schedule(0.0, 0.5))
    pruner.step(0.4)
    twin = copy.deepcopy(model)
    before = twin[3].weight.clone()
    with torch.no_grad():
        model[3].parametrizations.weight.original.zero_()
    pruner.step(0.5)
    assert torch.equal(twin[3].weight, before)


def test_half_precision_parameters_are_pruned_exactly():
    """bfloat16 holds many equal magnitudes; the count of zeros must still be exact."""
    model = small_net().to(torch.bfloat16)
    pruner = Pruner(model, Unstructured(0.5), Schedule(0.0, 0.5))
    pruner.step(1.0)
    report = pruner.harden()
    assert report.zeros == round(0.5 * report.elements)
    assert model[3].weight.dtype is torch.bfloat16


def test_step_counts_calls_when_the_schedule_knows_the_run():
    """Three lines in anybody's loop: step() without arguments must reach the full ratio at the last step."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.5), Schedule(0.0, 1.0, steps=4))
    for _ in range(4):
        pruner.step()
    assert pruner.progress == 1.0
    assert pruner.sparsity == pytest.approx(0.5, abs=1e-3)


def _frozen() -> nn.Module:
    model = small_net()
    model[3].weight.requires_grad_(False)
    return model


def _weight_norm() -> nn.Module:
    model = small_net()
    nn.utils.parametrizations.weight_norm(model[3])
    return model


@pytest.mark.parametrize(("build", "reason"), [(_frozen, "requires_grad"), (_weight_norm, "parametrized already")])
def test_layers_that_cannot_be_pruned_are_skipped_with_a_reason(build, reason):
    """Frozen or re-parametrized weights must be reported, not silently pruned or crashed on."""
    pruner = Pruner(build(), Unstructured(0.5))
    assert [mask.name for mask in pruner.masks] == ["6"]
    assert any(reason in item.reason for item in pruner.skipped)


@pytest.mark.parametrize("pattern", [Unstructured(0.5), NM(2, 4), Block(0.5, 1, 4)])
def test_nan_weights_stop_with_the_layers_name(pattern):
    """NaN sorts as the largest value and would survive pruning unseen."""
    model = small_net()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingStoppedError) as caught:
        Pruner(model, pattern).step(0.5)
    assert caught.value.where == "3.weight"


def test_module_changed_after_attach_is_noticed():
    """Replacing a layer's weight under the mask would harden a tensor that nobody uses."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.5))
    parametrize.remove_parametrizations(model[3], "weight")
    with pytest.raises(UsageError, match="lost its mask"):
        pruner.step(0.5)


def _hardened_twice() -> None:
    pruner = Pruner(small_net(), Unstructured(0.5))
    pruner.harden()
    pruner.harden()


class _Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Pruner(small_net(), Unstructured(0.5), ignore=["clasifier"]), UsageError, "matches no layer"),
        (lambda: Pruner(small_net(), Unstructured(0.5), ignore=["("]), UsageError, "not a regular expression"),
        (lambda: Pruner(small_net(), Unstructured(0.5), ignore=["."]), UsageError, "nothing to prune"),
        (lambda: Pruner(nn.ReLU(), Unstructured(0.5)), UsageError, "no convolution and no linear layer"),
        (lambda: Pruner(small_net(), NM(2, 7)), UsageError, "choose an m that divides"),
        (lambda: Pruner(small_net(), Block(0.5, 1, 7)), UsageError, "choose a block that divides"),
        (lambda: Pruner(small_net(), Unstructured(0.99)), UsageError, "cannot be reached"),
        (lambda: Pruner(small_net(), "unstructured"), UsageError, "not supported"),
        (lambda: Pruner(small_net(), Channel(0.5)), UsageError, "needs example_inputs"),
        (lambda: Pruner(small_net(), Unstructured(0.5)).step(), UsageError, "without a progress"),
        (lambda: Pruner(small_net(), Unstructured(0.5)).step(-0.1), UsageError, "progress is -0.1"),
        (_hardened_twice, UsageError, "hardened its model already"),
        (lambda: Pruner(_Branches(), Unstructured(0.5), None, (torch.ones(2, 4),)), CaptureError, "torch.export"),
    ],
)
def test_impossible_uses_are_refused_by_name(build, error, message):
    """Each wrong use must stop with what is wrong and what to do, never with a traceback from within."""
    with pytest.raises(error) as caught:
        build()
    assert message in str(caught.value)


def test_one_shot_cannot_be_trained_on():
    """A step after it would move progress back, and hardening would call the ramp unfinished."""
    pruner = Pruner(small_net(), Unstructured(0.5))
    pruner.one_shot()
    with pytest.raises(UsageError, match="one shot already"):
        pruner.step(0.5)


def test_cuts_among_equal_scores_are_told():
    """All-equal weights stay whole in the soft network, so hardening changes the function: silence hides it."""
    model = small_net()
    with torch.no_grad():
        model[3].weight.fill_(0.1)
        model[6].weight.fill_(0.1)
    pruner = Pruner(model, Unstructured(0.5), preset="gradual")
    pruner.step(1.0)
    report = pruner.harden()
    assert any("equal scores" in warning for warning in report.warnings)
    assert report.zeros == round(0.5 * report.elements)
