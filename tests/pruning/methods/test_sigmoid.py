"""The soft mask and its gradient against autograd and the published formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pdp_export.pruning.methods.sigmoid import RectifiedMask, SigmoidMask, soft_mask
from pdp_export.pruning.methods.temperature import TINY, Temperature
from tests.pruning.methods.products import gated_product

TEMPERATURE = Temperature(relative=True, start=4.0, end=4.0)
magnitudes = st.floats(min_value=1e-3, max_value=2.0)


def reference(weight: Tensor, threshold: float, tau: float) -> Tensor:
    """The paper's two-way softmax, written out."""
    logits = torch.stack([torch.full_like(weight, threshold**2 / tau), weight**2 / tau])
    return torch.softmax(logits, dim=0)[1] * weight


def soft_product(weight: Tensor, threshold: Tensor, tau: Tensor, gain: float | None = None) -> Tensor:
    return gated_product(weight, threshold, tau, SigmoidMask(TEMPERATURE, gain))


def gradient(weight: Tensor, threshold: float, tau: float, gain: float | None) -> Tensor:
    leaf = weight.clone().requires_grad_()
    soft_product(leaf, torch.tensor(threshold), torch.tensor(tau), gain).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@given(threshold=magnitudes, kappa=st.floats(min_value=1e-2, max_value=4.0))
def test_equals_the_papers_softmax_in_value_and_gradient(threshold, kappa):
    """The sigmoid form must be PDP's softmax, and its gradient the one with t held constant."""
    weight = torch.linspace(-2.5 * threshold, 2.5 * threshold, 41)
    tau = kappa * threshold**2
    exact = weight.double().requires_grad_()
    expected = reference(exact, threshold, tau)
    expected.sum().backward()
    found = soft_product(weight, torch.tensor(threshold), torch.tensor(tau))
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient(weight, threshold, tau, None).double(), exact.grad, rtol=1e-3, atol=1e-5)


def test_gradient_agrees_with_finite_differences():
    """A wrong chain rule would still look plausible; a difference quotient cannot be fooled."""
    weight, step = torch.tensor([-0.9, -0.3, 0.05, 0.29, 0.31, 1.2], dtype=torch.float64), 1e-6
    slope = (reference(weight + step, 0.3, 0.05) - reference(weight - step, 0.3, 0.05)) / (2 * step)
    torch.testing.assert_close(gradient(weight.float(), 0.3, 0.05, None).double(), slope, rtol=1e-4, atol=1e-5)


def test_boundary_is_one_half_and_mask_rises_with_magnitude():
    """M must be 1/2 at both +t and -t and rise with |w|; an inverted mask prunes the large weights."""
    scores = torch.linspace(0, 1, 101)
    mask = soft_mask(scores, torch.tensor(0.4), torch.tensor(0.02))
    assert mask[40] == pytest.approx(0.5, abs=1e-6)
    assert bool((mask.diff() >= 0).all())
    assert soft_mask(torch.tensor(-0.4), torch.tensor(0.4), torch.tensor(0.02)) == pytest.approx(0.5)


@given(kappa=st.floats(min_value=1e-4, max_value=1.0))
def test_gain_clips_the_boost_at_the_boundary(kappa):
    """Unclipped, the boundary gain 1/2 + 1/(2 kappa) reaches thousands and throws weights off the threshold."""
    weight = torch.linspace(-1, 1, 201)
    free, clipped = gradient(weight, 0.5, kappa * 0.25, None), gradient(weight, 0.5, kappa * 0.25, 1.0)
    torch.testing.assert_close(
        gradient(torch.tensor([0.5]), 0.5, kappa * 0.25, None)[0].item(), 0.5 + 0.5 / kappa, rtol=1e-3, atol=0
    )
    assert float(clipped.max()) <= 1.0
    torch.testing.assert_close(clipped, free.clamp(max=1.0), rtol=4e-3, atol=1e-6)  # the slope is bfloat16


@pytest.mark.parametrize("weight", [0.0, -0.0, 1e-20, 1e-3, 1e5, 1e15])
@pytest.mark.parametrize("threshold", [0.0, 1e-12, 10.0])
def test_extremes_stay_finite(weight, threshold):
    """T = 0 makes tau vanish; inf * 0 in the gradient would turn the whole layer into NaN."""
    tensor = torch.tensor([weight])
    tau = max(TINY, 1e-3 * threshold**2)
    assert bool(gradient(tensor, threshold, tau, 1.0).isfinite().all())
    assert bool(gradient(tensor, threshold, tau, None).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_squared_in_float32(dtype):
    """float16 squares underflow below 2.4e-4, which would make every small weight look pruned alike."""
    weight = torch.tensor([1e-4, 1e-4], dtype=dtype, requires_grad=True)
    threshold = weight.detach()[0].float()
    masked = soft_product(weight, threshold, 0.1 * threshold**2)
    assert masked.dtype is dtype
    torch.testing.assert_close(masked.float(), weight.float() / 2)
    masked.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype is dtype


def rectified(weight: Tensor, threshold: float, backward: float | None) -> tuple[Tensor, Tensor]:
    leaf = weight.clone().requires_grad_()
    tau = torch.tensor(4 * threshold**2)
    masked = gated_product(leaf, torch.tensor(threshold), tau, RectifiedMask(TEMPERATURE, backward))
    masked.sum().backward()
    assert leaf.grad is not None
    return masked.detach(), leaf.grad


@given(threshold=magnitudes)
def test_rectified_mask_is_zero_up_to_the_threshold_and_continuous_there(threshold):
    """A jump or a leak at t would bring the soft-hard gap back that this form exists to remove."""
    weight = threshold * torch.tensor([-1.001, -0.999, 0.0, 0.5, 0.999, 1.001, 2.0])
    masked, _ = rectified(weight, threshold, 1.0)
    assert masked[1:5].tolist() == [0, 0, 0, 0]
    assert 0 < float(masked[5]) < 1e-3 * threshold
    torch.testing.assert_close(float(masked[6]), 2 * threshold * math.tanh(3 / 8), rtol=1e-4, atol=0)


@given(threshold=magnitudes)
def test_rectified_slope_is_pdps_at_the_backward_temperature(threshold):
    """Pruned weights revive by PDP's own gradient, not by that of the rectified gate (which is zero there)."""
    weight = torch.linspace(-2.5 * threshold, 2.5 * threshold, 41)
    free = gradient(weight, threshold, threshold**2, None)
    torch.testing.assert_close(rectified(weight, threshold, 1.0)[1], free, rtol=4e-3, atol=1e-6)
    assert bool((rectified(weight, threshold, None)[1] == 1).all())
