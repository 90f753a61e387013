"""The vision transformer: the published network, torch's own block as a reference, and small ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pdp_export.graph.capture import capture
from pdp_export.graph.counting import count
from sample_models.vision_transformer import Block, vision_transformer, vit_tiny


def test_vit_tiny_has_the_published_size_and_work():
    """A missing bias, or a class token without a position, and the network is not the one that others measure."""
    model = vit_tiny().eval()
    found = count(capture(model, (torch.zeros(2, 3, 224, 224),), {0: {0: "batch"}}))
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters()) == 5_717_416
    assert found.macs == pytest.approx(1.26e9, rel=1e-2)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_a_block_computes_what_torch_computes():
    """Queries, keys, values or heads in another order, GELU by tanh, or another epsilon keep every shape."""
    torch.manual_seed(0)
    block = Block(width=12, heads=3, hidden=20).double().eval()
    reference = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    reference.double().eval()
    assert [parameter.shape for parameter in _in_torchs_order(block)] == [p.shape for p in reference.parameters()]
    with torch.no_grad():
        for ours, theirs in zip(_in_torchs_order(block), reference.parameters(), strict=True):
            theirs.copy_(ours.normal_())
        tokens = torch.randn(2, 5, 12, dtype=torch.float64)
        torch.testing.assert_close(block(tokens), reference(tokens))


def _in_torchs_order(block: Block) -> list[nn.Parameter]:
    layers = (block.attention, block.perceptron, block.attention_norm, block.perceptron_norm)
    return [parameter for layer in layers for parameter in layer.parameters()]


def test_only_the_class_token_is_classified():
    """Without blocks nothing of the image may reach the class token: a shifted index would classify a patch."""
    torch.manual_seed(0)
    model = vision_transformer(image=8, depth=0)
    first, second = model(torch.randn(2, 3, 8, 8))
    assert torch.equal(first, second)


def test_all_patches_reach_the_class_token():
    """Tokens lost where patches are flattened would leave parts of the image unread."""
    torch.manual_seed(0)
    model, image = vision_transformer(image=12, depth=1), torch.randn(1, 3, 12, 12, requires_grad=True)
    model(image).square().sum().backward()
    assert image.grad is not None
    assert (image.grad != 0).all()


@pytest.mark.parametrize(("image", "patch", "width", "heads"), [(8, 4, 16, 4), (6, 2, 12, 1), (9, 3, 10, 5)])
def test_small_forms_run_with_any_batch_when_captured(image: int, patch: int, width: int, heads: int):
    """A class token repeated for the traced batch only, or attention taken apart, is lost to every later stage."""
    torch.manual_seed(0)
    model = vision_transformer(7, image, patch, width, 2, heads).eval()
    program = capture(model, (torch.zeros(2, 3, image, image),), {0: {0: "batch"}})
    images = torch.randn(5, 3, image, image)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images))
        assert model(images).shape == (5, 7)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.aten.scaled_dot_product_attention.default) == 2


def test_every_parameter_learns():
    """A parameter that no output depends on would be pruned for nothing."""
    torch.manual_seed(0)
    model = vision_transformer(3, image=8, width=16, depth=2)
    model(torch.randn(4, 3, 8, 8)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"image": 30, "patch": 4}, "patches of 4 pixels do not tile an image of 30"), ({"heads": 5}, "64 .* 5 heads")],
)
def test_what_cannot_be_split_is_refused(arguments: dict[str, int], message: str):
    """Otherwise a border of the image is dropped in silence, or a reshape fails far from the reason."""
    with pytest.raises(ValueError, match=message):
        vision_transformer(**arguments)
