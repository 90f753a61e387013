"""Figures of masks: what warns is what can do harm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pdp_export.pruning import NM, Channel, Pruner, Schedule, Unstructured
from pdp_export.pruning.patterns import Pattern
from pdp_export.pruning.statistics import dangers, limits


def _pruned(pattern: Pattern, preset: str = "default", temperature: float = 1e-4, *, zeros: float = 0.0) -> Pruner:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    with torch.no_grad():
        net[2].weight[: round(32 * zeros)] = 0
    pruner = Pruner(
        net, pattern, Schedule(warmup=0.0, ramp_end=1.0), (torch.zeros(2, 32),), preset=preset, temperature=temperature
    )
    for step in range(10):
        pruner.step((step + 1) / 10)
    return pruner


@pytest.mark.parametrize("pattern", [Unstructured(0.4), NM(2, 4)], ids=str)
def test_zeros_that_were_there_are_no_soft_mask(pattern: Pattern):
    """A sparse network that was pruned again warned of masks at t = 0, where there is nothing left to harden."""
    pruner = _pruned(pattern, zeros=0.5)
    assert pruner.warnings() == []
    assert pruner.harden().warnings == ()


@pytest.mark.parametrize("pattern", [Unstructured(0.5), NM(2, 4), Channel(0.5)], ids=str)
def test_a_finished_default_is_calm(pattern: Pattern):
    """Warnings of the default preset on an ordinary network would soon be read by nobody."""
    rows = _pruned(pattern).statistics()
    assert rows
    assert all(row.current > 0 and not dangers(row) for row in rows)


@pytest.mark.parametrize(("temperature", "expected"), [(1e-1, {"sharpness", "fuzzy"}), (1e-6, {"gain"})])
def test_a_constant_temperature_is_dangerous_on_one_side_or_the_other(temperature: float, expected: set[str]):
    """Too large it stays soft, too small it boosts gradients: each is named for the layer."""
    pruner = _pruned(Unstructured(0.5), "paper", temperature)
    for row in pruner.statistics():
        assert set(dangers(row)) == expected
        assert set(limits(row)) == {"sharpness", "fuzzy", "gain"}
    assert "(1, 2)" in pruner.warnings()[0]
