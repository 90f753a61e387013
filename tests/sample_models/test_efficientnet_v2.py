"""EfficientNetV2: the published network, and small ones that can be captured and trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pdp_export.graph.capture import capture
from pdp_export.graph.counting import count
from sample_models.efficientnet_v2 import Block, SqueezeExcitation, efficientnet_v2, efficientnet_v2_s


@pytest.mark.slow
def test_efficientnet_v2_s_has_the_published_size_and_work():
    """A gate squeezed from the wrong width or a stride in the wrong place spoils every comparison."""
    model = efficientnet_v2_s().eval()
    found = count(capture(model, (torch.zeros(2, 3, 224, 224),), {0: {0: "batch"}}))
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters()) == 21_458_488
    assert found.macs == pytest.approx(2.85e9, rel=1e-3)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 40, 40)).shape == (2, 1000)


def test_all_variances_get_the_epsilon_of_the_reference():
    """Published weights were trained with 1e-3; torch's 1e-5 gives other outputs without any error."""
    norms = [module for module in efficientnet_v2().modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}


def test_the_gate_scales_whole_channels_of_one_image():
    """A gate pooled over the batch, or over channels, would still have shapes that broadcast."""
    torch.manual_seed(0)
    gate, image = SqueezeExcitation(6, 2), torch.randn(3, 6, 5, 5).abs() + 0.1
    with torch.no_grad():
        scale = gate(image) / image
        torch.testing.assert_close(scale, scale[:, :, :1, :1].expand_as(scale))
        torch.testing.assert_close(gate(image)[1:2], gate(image[1:2]))
    assert ((scale > 0) & (scale < 1)).all()
    assert len({round(float(value), 5) for value in scale[:, :, 0, 0].flatten()}) == 18


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("outputs", "stride", "added"), [(8, 1, True), (8, 2, False), (16, 1, False)])
def test_a_block_adds_its_input_where_shapes_agree(fused: bool, outputs: int, stride: int, added: bool):
    """A forgotten shortcut changes neither parameters nor shapes."""
    torch.manual_seed(0)
    block, image = Block(8, outputs, stride, 2, fused).eval(), torch.randn(2, 8, 7, 7)
    with torch.no_grad():
        found, rest = block(image), block.body(image)
    assert found.shape == (2, outputs, -(-7 // stride), -(-7 // stride))
    torch.testing.assert_close(found, rest + image if added else rest)


@pytest.mark.parametrize(("depth", "stem_stride", "size"), [(0.1, 1, 16), (0.25, 2, 33)])
def test_small_forms_run_with_any_batch_when_captured(depth: float, stem_stride: int, size: int):
    """A forward() that fixes the batch while traced cannot be deployed, nor proven at two batch sizes."""
    torch.manual_seed(0)
    model = efficientnet_v2(7, 0.25, depth, stem_stride).eval()
    program = capture(model, (torch.zeros(2, 3, size, size),), {0: {0: "batch"}})
    image = torch.randn(5, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), model(image))
        assert model(image).shape == (5, 7)
        assert model.features(image).shape[2] == -(-size // (16 * stem_stride))


def test_every_parameter_learns():
    """Work in place on a tensor that the backward pass needs stops training, not inference."""
    torch.manual_seed(0)
    model = efficientnet_v2(3, depth=0.1)
    model(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
