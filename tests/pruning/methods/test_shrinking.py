"""The rivals: what they do forward and backward, as their authors published it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pdp_export.pruning.methods import PRESET_NAMES, Method, preset
from pdp_export.pruning.methods.shrinking import ShrinkingMask
from tests.pruning.methods.products import gated_product

WEIGHT = torch.tensor([-0.9, -0.3, -0.1, 0.0, 0.2, 0.3, 0.5, 1.2])


def pruned(name: str, weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    return applied(preset(name).method, weight, threshold)


def applied(method: Method, weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    leaf = weight.clone().requires_grad_()
    masked = gated_product(leaf, torch.tensor(threshold), torch.tensor(1.0), method)
    masked.sum().backward()
    assert leaf.grad is not None
    return masked.detach(), leaf.grad


def test_gradual_magnitude_passes_only_kept_weights():
    """A gradient on pruned weights would make it the straight-through estimator."""
    masked, gradient = pruned("gradual", WEIGHT, 0.3)
    assert torch.equal(masked, WEIGHT * (WEIGHT.abs() > 0.3))
    assert torch.equal(gradient, (WEIGHT.abs() > 0.3).float())


def test_straight_through_keeps_pruned_weights_learning():
    """Without it weights under the threshold never return."""
    masked, gradient = pruned("straight_through", WEIGHT, 0.3)
    assert torch.equal(masked, WEIGHT * (WEIGHT.abs() > 0.3))
    assert bool((gradient == 1).all())


def test_feather_is_the_cube_root_threshold():
    """Power three lies between soft and hard; a wrong root would still be zero in the right places."""
    masked, gradient = pruned("feather", WEIGHT, 0.25)
    size = (WEIGHT.abs() ** 3 - 0.25**3).clamp(min=0) ** (1 / 3)
    torch.testing.assert_close(masked, WEIGHT.sign() * size)
    assert bool((gradient == 1).all())


def test_st3_is_the_soft_threshold():
    """Without the scale of the paper, which cost five points on a small depthwise network."""
    masked, gradient = pruned("st3", WEIGHT, 0.25)
    torch.testing.assert_close(masked, WEIGHT.sign() * (WEIGHT.abs() - 0.25).clamp(min=0))
    assert bool((gradient == 1).all())


@given(threshold=st.floats(0.05, 0.8))
def test_rescaling_restores_the_mass_of_each_output_channel(threshold):
    """The published form rescales by the kept share of |w| per output channel, and not the gradient."""
    weight = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
    method = ShrinkingMask(preset("st3").method.temperature, power=1, rescale=True)
    masked, gradient = applied(method, weight, threshold)
    size = weight.abs()
    ratio = ((size * (size > threshold)).mean((1, 2), keepdim=True) + 1e-6) / (size.mean((1, 2), keepdim=True) + 1e-6)
    expected = weight.sign() * (size - threshold).clamp(min=0) * 1.01 / (ratio + 0.01)
    torch.testing.assert_close(masked, expected, rtol=1e-4, atol=1e-6)
    assert bool((gradient == 1).all())


@pytest.mark.parametrize("name", PRESET_NAMES)
@pytest.mark.parametrize("threshold", [0.0, 1e-12, 10.0])
def test_extremes_stay_finite(name, threshold):
    """0 / 0 at a zero weight or a zero threshold would turn a whole layer into NaN."""
    weight = torch.tensor([[0.0, -0.0, 1e-30], [1e-3, 1e5, -1e12]])
    masked, gradient = pruned(name, weight, threshold)
    assert bool(masked.isfinite().all())
    assert bool(gradient.isfinite().all())
