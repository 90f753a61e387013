"""Hardening: what is deployed is what was trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pdp_export.errors import ProofError
from pdp_export.pruning import Pruner, Schedule, Unstructured
from pdp_export.pruning.hardening import harden_masks
from pdp_export.pruning.masks import Place, WeightMask
from pdp_export.pruning.methods import preset


def attached(weight: list[float], pruned: int, kappa: float) -> tuple[nn.Linear, WeightMask]:
    layer = nn.Linear(len(weight), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weight]))
    mask = WeightMask("layer", len(weight), [Place(layer, "weight", "weight")], preset("default").method)
    mask.attach()
    mask.target = pruned
    mask.refresh(1.0, kappa)
    return layer, mask


def test_kept_values_are_the_softly_masked_ones():
    """Deploying raw values of half-masked channels put BatchNorm statistics off and cost 40 points."""
    layer, mask = attached([0.1, -0.6, 0.7, 2.0], 2, kappa=0.3)
    soft = layer.weight.detach().clone()
    report = harden_masks([mask], [], fold=True)
    assert torch.equal(layer.weight[0, 2:], soft[0, 2:])
    assert layer.weight[0, :2].tolist() == [0, 0]
    assert report.gap == pytest.approx(float(abs(soft[0, 1] / 0.6)), rel=1e-5)


def test_untrained_masks_leave_raw_values():
    """Pruning from the weights alone must not shrink the kept weights by a mask that nobody trained."""
    layer = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    raw = layer[1].weight.detach().clone()
    Pruner(layer, Unstructured(0.5), Schedule(0.0, 1.0)).harden()
    kept = layer[1].weight != 0
    assert int(kept.sum()) == 32
    assert torch.equal(layer[1].weight[kept], raw[kept])


def test_raw_values_keep_their_precision():
    """Kept weights of a float64 model went through float32 on the way."""
    layer = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)).double()
    raw = nn.init.normal_(layer[1].weight).detach().clone()
    pruner = Pruner(layer, Unstructured(0.5))
    pruner.one_shot()
    pruner.harden()
    assert torch.equal(layer[1].weight, torch.where(layer[1].weight == 0, 0, raw))


def test_masks_that_were_never_trained_warn_of_nothing():
    """One-shot keeps raw weights: "train longer or sharper" was said of a softness that is not deployed."""
    torch.manual_seed(0)
    pruner = Pruner(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)), Unstructured(0.5), preset="paper")
    pruner.one_shot()
    assert pruner.warnings()
    assert pruner.harden().warnings == ()


def test_negative_zeros_become_positive():
    """-0.0 differs from +0.0 in the stored bits, and encoders count bits."""
    layer, mask = attached([-0.0, -0.1, 0.5, -0.0], 3, kappa=1e-3)
    report = harden_masks([mask], [], fold=True)
    assert report.zeros == 3
    assert not bool(torch.signbit(layer.weight[layer.weight == 0]).any())


def test_zeros_that_differ_from_the_order_are_a_failed_proof():
    """The count must come from the weights, or a broken mask would go unnoticed."""
    _, mask = attached([0.1, 0.2, 0.3, 0.4], 2, kappa=1e-3)
    mask.target = 3
    with pytest.raises(ProofError, match="3 of 4 were to be zero; 2 are"):
        harden_masks([mask], [], fold=False)
