"""Uniform and ERK shares: the published formula, bounds, and totals to the last element."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.errors import UsageError
from pdp_export.pruning.allocation import Budget
from pdp_export.pruning.allocation.proportional import proportional
from pdp_export.pruning.patterns import Channel, Unstructured

bounded = st.lists(st.tuples(st.floats(0.01, 1e6), st.integers(0, 50), st.integers(1, 5000)), min_size=1, max_size=8)


@given(entries=bounded, share=st.floats(0, 1))
def test_totals_are_exact_within_the_bounds(entries, share):
    """Rounding each share for itself misses the total by up to half a weight per layer."""
    weights, lows, more = zip(*entries, strict=True)
    highs = [low + extra for low, extra in zip(lows, more, strict=True)]
    total = round(sum(lows) + share * (sum(highs) - sum(lows)))
    result = proportional(weights, lows, highs, total)
    assert sum(result) == total
    assert all(low <= count <= high for low, count, high in zip(lows, result, highs, strict=True))
    inside = [
        count / weight
        for weight, low, count, high in zip(weights, lows, result, highs, strict=True)
        if low < count - 1 and count + 1 < high
    ]
    slack = max(1 / weight for weight in weights)
    assert not inside or max(inside) - min(inside) <= 2 * slack


def test_largest_remainders_win_and_ties_go_to_the_first():
    """The result must not depend on anything but the numbers."""
    assert proportional([1, 1, 1], [0, 0, 0], [9, 9, 9], 4) == [2, 1, 1]
    assert proportional([5, 3, 2], [0, 0, 0], [9, 9, 9], 7) == [4, 2, 1]  # 3.5 2.1 1.4


def test_uniform_prunes_the_same_share_everywhere():
    """The ranking of the weights must have no say."""
    scores = [torch.full((40,), 1e-6), torch.ones(400)]
    assert Budget(Unstructured(0.75), [40, 400], 0.98, method="uniform").counts(scores) == [30, 300]


def published_densities(shapes, sparsity):
    """Follow Evci et al. step by step: the layer whose density exceeds 1 most becomes dense, then again."""
    raw = [sum(shape) / prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        rest = [index for index in range(len(shapes)) if index not in dense]
        kept = sum((1 - sparsity) * prod(shapes[index]) for index in rest)
        kept -= sum(sparsity * prod(shapes[index]) for index in dense)
        factor = kept / sum(raw[index] * prod(shapes[index]) for index in rest)
        widest = max(rest, key=raw.__getitem__)
        if factor * raw[widest] <= 1:
            return [1.0 if index in dense else factor * raw[index] for index in range(len(shapes))]
        dense.add(widest)


@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.95])
def test_erk_follows_the_published_procedure(sparsity):
    """Kernel dimensions count; layers that cannot hold their share become dense and the rest is rescaled."""
    shapes = [(16, 3, 3, 3), (64, 32, 3, 3), (128, 64, 1, 1), (10, 64), (4, 4)]
    sizes = [prod(shape) for shape in shapes]
    counts = Budget(Unstructured(sparsity), sizes, 1.0, method="erk", shapes=shapes).counts([])
    assert sum(counts) == round(sparsity * sum(sizes))
    for size, count, density in zip(sizes, counts, published_densities(shapes, sparsity), strict=True):
        assert size - count == pytest.approx(density * size, abs=1.5)


def test_a_cap_binds_erk_too():
    """The widest layer may not become sparser than the cap; the others give what it keeps."""
    shapes, sizes = [(100, 100), (1000, 1000)], [10_000, 1_000_000]
    counts = Budget(Unstructured(0.95), sizes, 0.951, method="erk", shapes=shapes).counts([])
    assert counts[1] == 951_000
    assert sum(counts) == round(0.95 * 1_010_000)


def test_erk_needs_shapes_and_weights():
    """Without shapes there is nothing to compute; for channels the density has no meaning."""
    with pytest.raises(UsageError, match="shape of every pruned weight"):
        Budget(Unstructured(0.5), [10], 0.98, method="erk")
    with pytest.raises(UsageError, match="nothing about channels"):
        Budget(Channel(0.5), [32], 0.98, method="erk", shapes=[(32, 3, 3, 3)])
