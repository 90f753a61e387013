"""DenseNet: the published network, and small ones that can be captured and trained."""

from __future__ import annotations

import pytest
import torch

from pdp_export.graph.capture import capture
from pdp_export.graph.counting import count
from sample_models.densenet import DenseBlock, densenet121, densenet_cifar


@pytest.mark.slow
def test_densenet121_has_the_published_size_and_work():
    """A layer too few or a stride in the wrong place, and no figure could be compared with another tool's."""
    model = densenet121().eval()
    found = count(capture(model, (torch.zeros(2, 3, 224, 224),), {0: {0: "batch"}}))
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters()) == 7_978_856
    assert found.macs == pytest.approx(2.834e9, rel=1e-3)
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)


def test_small_form_has_the_size_of_the_paper():
    """The stem of the paper's CIFAR networks and their compression differ from a shrunken DenseNet-121."""
    assert sum(parameter.numel() for parameter in densenet_cifar().parameters()) == pytest.approx(0.8e6, abs=0.05e6)


def test_a_block_keeps_everything_that_came_before():
    """A ReLU that works in place on the block's own tensors, or another order of the parts, changes later layers."""
    torch.manual_seed(0)
    block, image = DenseBlock(6, 4, layers=3).eval(), torch.randn(2, 6, 5, 5)
    parts = [image.clone()]
    with torch.no_grad():
        for layer in block.layers:
            parts.append(layer([torch.cat(parts, 1)]))
        assert torch.equal(block(image), torch.cat(parts, 1))
    assert [part.shape[1] for part in parts] == [6, 4, 4, 4]


@pytest.mark.parametrize(("growth", "blocks", "size"), [(4, (2, 1), 16), (6, (3,), 9), (3, (1, 1, 2), 32)])
def test_small_forms_run_with_any_batch_when_captured(growth: int, blocks: tuple[int, ...], size: int):
    """A forward() that fixes the batch while traced cannot be deployed, nor proven at two batch sizes."""
    torch.manual_seed(0)
    model = densenet_cifar(7, growth, blocks).eval()
    program = capture(model, (torch.zeros(2, 3, size, size),), {0: {0: "batch"}})
    image = torch.randn(5, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), model(image))
        assert model(image).shape == (5, 7)
        assert model.features(image).shape[2] == size >> len(blocks) - 1


def test_every_parameter_learns():
    """Work in place on a tensor that the backward pass needs stops training, not inference."""
    torch.manual_seed(0)
    model = densenet_cifar(3, 4, (2, 2))
    model(torch.randn(4, 3, 8, 8)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
