"""What masks hold between two refreshes, and in which precision."""

from __future__ import annotations

import pytest
import torch

from pdp_export.errors import UsageError
from pdp_export.pruning import Pruner, Unstructured
from tests.pruning.test_pruner import small_net


def test_gates_are_held_between_refreshes_and_resume_exactly():
    """Between refreshes a gate does not follow from the weights: computed anew, a resumed run goes another way."""
    model, twin = small_net(), small_net()
    pruner, other = (Pruner(each, Unstructured(0.5), refresh_every=8) for each in (model, twin))
    pruner.step(0.5)
    before = pruner.masks[0].held_gate.clone()
    with torch.no_grad():
        model[3].parametrizations.weight.original.mul_(torch.rand(16, 8, 3, 3))
    pruner.step(0.51)
    assert torch.equal(pruner.masks[0].held_gate, before)
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(pruner.state_dict())
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(twin(image), model(image))


def test_masks_stay_in_float32_when_the_model_does_not():
    """A threshold rounded to bfloat16 prunes another number of weights than was asked."""
    model = small_net()
    pruner = Pruner(model, Unstructured(0.5))
    pruner.step(0.5)
    model.bfloat16()
    pruner.step(1.0)
    mask = pruner.masks[0]
    assert {tensor.dtype for tensor in (mask.threshold, mask.tau, mask.held_gate)} == {torch.float32}
    assert model[3].weight.dtype is torch.bfloat16
    assert pruner.harden().zeros == round(0.5 * sum(mask.size for mask in pruner.masks))


def test_zero_steps_between_refreshes_are_refused():
    """A falsy zero must not pass for "not given"."""
    with pytest.raises(UsageError, match="refresh_every is 0"):
        Pruner(small_net(), Unstructured(0.5), refresh_every=0)
