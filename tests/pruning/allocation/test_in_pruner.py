"""Allocation and budgets as the Pruner takes them."""

from __future__ import annotations

import torch

from pdp_export.pruning import Pruner, Unstructured
from tests.pruning.test_pruner import small_net


def test_budget_of_work_is_kept_by_the_weights_themselves():
    """A budget that only the plan meets is no budget: it is counted from the hardened weights."""
    model, image = small_net(), torch.randn(2, 3, 8, 8)
    pruner = Pruner(model, Unstructured(0.5), example_inputs=(image,), budget={"parameters": 0.4})
    pruner.one_shot()
    pruner.harden()
    total = sum(parameter.numel() for parameter in model.parameters())
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters() if parameter.dim() > 1)
    assert (total - zeros) / total <= 0.4
    assert (total - zeros + 1) / total > 0.4


def test_allocation_by_name_reaches_the_masks():
    """A uniform allocation prunes the same share of every layer, whatever their magnitudes."""
    model = small_net()
    with torch.no_grad():
        next(model.parameters()).mul_(100)
    pruner = Pruner(model, Unstructured(0.5), allocation="uniform", example_inputs=(torch.randn(2, 3, 8, 8),))
    pruner.one_shot()
    assert {mask.pruned / mask.size for mask in pruner.masks} == {0.5}
