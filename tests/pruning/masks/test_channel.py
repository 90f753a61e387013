"""Channel masks: one gate per channel over filters, biases, BatchNorm and depthwise filters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pdp_export.pruning import Channel, Pruner, Schedule
from pdp_export.pruning.masks import ChannelMask, Place
from pdp_export.pruning.methods import preset
from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.resnet import resnet_cifar


def places(module: nn.Module, *attributes: str) -> list[Place]:
    return [Place(module, attribute, attribute) for attribute in attributes]


def test_filters_are_scored_along_output_channels():
    """The norm over the wrong axis goes unnoticed on square layers; this one is (3, 5, 2, 1)."""
    conv = nn.Conv2d(5, 3, (2, 1))
    mask = ChannelMask("g", 3, places(conv, "weight"), places(conv, "bias"), preset("default").method)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([3.0, 1.0, 2.0]).view(3, 1, 1, 1).expand(3, 5, 2, 1))
    torch.testing.assert_close(mask.scores(), torch.tensor([3.0, 1.0, 2.0]))
    mask.target = 1
    mask.refresh(1.0, 1e-3)
    keep, _ = mask.harden(fold=False)
    assert keep.tolist() == [True, False, True]
    assert conv.weight[1].count_nonzero() == 0
    assert conv.bias[1] == 0
    assert conv.weight[0].count_nonzero() == 10


def gated_pair(name: str) -> tuple[nn.Conv2d, nn.BatchNorm2d, ChannelMask]:
    conv, norm = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1, 1).expand(4, 2, 1, 1))
        norm.bias.fill_(0.7)
    mask = ChannelMask("g", 4, places(conv, "weight"), places(norm, "weight", "bias"), preset(name).method)
    mask.attach()
    mask.target = 2
    mask.refresh(1.0, 0.1)
    return conv, norm, mask


def test_gate_fades_the_channel_behind_batchnorm():
    """BatchNorm undoes a scaled filter, so the channel fades only if the gate is on BatchNorm too."""
    conv, norm, _ = gated_pair("default")
    output = norm(conv(torch.randn(8, 2, 5, 5))).detach()
    assert float(output[:, 0].abs().max()) < 1e-2
    assert float(output[:, 3].abs().max()) > 0.5


@pytest.mark.parametrize("name", ["default", "paper"])
def test_gate_is_constant_in_the_backward_pass_unless_unclipped(name):
    """A gradient through the gate gathers norms at the threshold, where masks stay soft."""
    conv, norm, mask = gated_pair(name)
    raw = norm.parametrizations.bias.original
    gradient = torch.tensor([1.0, 1.0, 1.0, 1.0])
    (norm.bias * gradient).sum().backward()
    torch.testing.assert_close(raw.grad, mask.soft())
    filters = conv.parametrizations.weight.original.grad
    assert (filters is None) == (name == "default")


def test_nearly_equal_norms_still_get_a_hard_mask():
    """Filter norms differ by per cents; a tau relative to t^2 leaves them all at one half."""
    conv = nn.Conv2d(4, 32, 1)
    with torch.no_grad():
        conv.weight.copy_(
            (1 + 0.01 * torch.rand(32, generator=torch.Generator().manual_seed(0)))
            .view(-1, 1, 1, 1)
            .expand(32, 4, 1, 1)
        )
    mask = ChannelMask("g", 32, places(conv, "weight"), places(conv, "bias"), preset("default").method)
    mask.target = 16
    mask.refresh(1.0, 1e-3)
    assert float((mask.soft() - (mask.soft() >= 0.5).float()).abs().max()) < 0.1


def step_through(model: nn.Module, pruner: Pruner, size: int, steps: int = 6) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(0)
    image, target = torch.randn(8, 3, size, size), torch.randint(0, 10, (8,))
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        F.cross_entropy(model(image), target).backward()
        optimizer.step()
        pruner.step(step / steps)


@pytest.mark.parametrize(
    ("build", "size"), [(lambda: mobilenet_v1(10, 0.5, 4), 32), (lambda: resnet_cifar(10, 8, 16), 16)]
)
def test_dead_channels_are_exactly_zero_in_every_activation(build, size):
    """A hardened channel that still emits its BatchNorm shift cannot be removed without changing the function."""
    torch.manual_seed(0)
    model = build()
    pruner = Pruner(model, Channel(0.5, align=8), Schedule(0.0, 0.5), (torch.randn(2, 3, size, size),))
    step_through(model, pruner, size)
    report = pruner.harden()
    assert report.asked == pytest.approx(0.5, abs=0.1)
    outputs: dict[nn.Module, torch.Tensor] = {}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, _, output: outputs.__setitem__(module, output.detach()))
    model.eval()(torch.randn(4, 3, size, size))
    assert sum(mask.pruned for mask in report.masks) > 0
    dead = 0
    for module, output in outputs.items():
        channels = (module.weight == 0).nonzero().flatten()
        assert output[:, channels].count_nonzero() == 0
        dead += len(channels)
    assert dead >= sum(mask.pruned for mask in report.masks)


def test_kept_channels_come_in_blocks_and_the_stem_stays():
    """Odd widths are slower than dense ones in most runtimes; the stem is protected like everywhere."""
    model = mobilenet_v1(10, 0.5, 6)
    pruner = Pruner(model, Channel(0.4, align=8), Schedule(0.0, 0.5), (torch.randn(2, 3, 32, 32),))
    pruner.step(1.0)
    report = pruner.harden()
    assert all((mask.size - mask.pruned) % 8 == 0 for mask in report.masks)
    assert model.features[0][0].weight.flatten(1).count_nonzero(dim=1).min() > 0
    assert any(item.layer == "features.0.0" and "first" in item.reason for item in pruner.skipped)


def test_residual_streams_share_one_mask():
    """Branches that disagree cannot be cut; ties='stream' must give the same dead channels on both sides of a join."""
    torch.manual_seed(0)
    model = resnet_cifar(10, 14, 16)
    pruner = Pruner(model, Channel(0.5, align=4), Schedule(0.0, 0.5), (torch.randn(2, 3, 16, 16),), prune_first=True)
    pruner.step(1.0)
    pruner.harden()
    first, second = model.features[3].body[3].weight, model.features[4].body[3].weight
    dead = [weight.flatten(1).count_nonzero(dim=1) == 0 for weight in (first, second)]
    assert torch.equal(dead[0], dead[1])
    assert bool(dead[0].any())


def test_narrow_and_ignored_groups_are_skipped_with_a_reason():
    """A group that has no whole block to give must be named, not silently kept."""
    model = mobilenet_v1(10, 0.25, 3)
    pruner = Pruner(model, Channel(0.3, align=16), None, (torch.randn(2, 3, 32, 32),), ignore=[r"features\.4"])
    reasons = {item.layer: item.reason for item in pruner.skipped}
    assert "align is 16" in reasons["features.2.0"]
    assert "ignored" in reasons["features.4.0"]
    assert [mask.size for mask in pruner.masks] == [32]


def test_free_branches_disagree_and_stay_exactly_zero():
    """One mask for a whole residual stream costs accuracy that branches masked for themselves need not pay."""
    model, image = resnet_cifar(classes=10, depth=8, width=8), (torch.randn(2, 3, 16, 16),)
    tied = Pruner(resnet_cifar(classes=10, depth=8, width=8), Channel(0.5, align=1), example_inputs=image)
    pruner = Pruner(model, Channel(0.5, ties="free", align=1), example_inputs=image)
    assert len(pruner.masks) > len(tied.masks)
    step_through(model, pruner, 16)
    pruner.harden()
    block = model.features[4]
    norms = [block.body[4], block.shortcut[1]]
    dead = [set((norm.weight == 0).nonzero().flatten().tolist()) for norm in norms]
    assert all(dead)
    assert dead[0] != dead[1]
    assert all(bool((norm.bias[norm.weight == 0] == 0).all()) for norm in norms)
