"""The budget: met exactly, capped per layer, in whole blocks of channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.errors import UsageError
from pdp_export.pruning.allocation import Budget, channel_caps, channel_counts, weight_caps, weight_counts
from pdp_export.pruning.patterns import Channel, Unstructured

layers = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=40), min_size=1, max_size=5)


@given(layers=layers, sparsity=st.floats(0.01, 0.99), most=st.floats(0.3, 1.0))
def test_weights_meet_the_budget_exactly_within_the_caps(layers, sparsity, most):
    """What a cap takes from one layer must be pruned in the others, to the last weight."""
    scores = [torch.tensor(layer, dtype=torch.float32) for layer in layers]
    sizes = [len(score) for score in scores]
    caps = weight_caps(sizes, most)
    if round(sparsity * sum(sizes)) > sum(caps):
        with pytest.raises(UsageError, match="cannot be reached"):
            Budget(Unstructured(sparsity), sizes, most)
        return
    Budget(Unstructured(sparsity), sizes, most)
    counts = weight_counts(scores, sparsity, caps)
    assert sum(counts) == round(sparsity * sum(sizes))
    assert all(0 <= count <= cap < size for count, cap, size in zip(counts, caps, sizes, strict=True))


def test_ranking_is_global():
    """A layer of small weights must lose more than a layer of large ones."""
    scores = [torch.linspace(0.0, 0.1, 100), torch.linspace(0.05, 1.0, 100)]
    counts = weight_counts(scores, 0.5, weight_caps([100, 100], 1.0))
    threshold = torch.cat(scores).sort().values[99]
    assert counts[0] == pytest.approx(int((scores[0] <= threshold).sum()), abs=1)


def test_cap_moves_the_excess_to_other_layers():
    """One global threshold put 99.7 % on a single layer; the cap must stop that without missing the target."""
    scores = [torch.full((1000,), 1e-6), torch.linspace(0.5, 1.0, 1000)]
    assert weight_counts(scores, 0.6, weight_caps([1000, 1000], 0.9)) == [900, 300]


@given(
    widths=st.lists(st.integers(2, 70), min_size=1, max_size=6),
    sparsity=st.floats(0.05, 0.95),
    align=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 1000),
)
def test_channels_are_kept_in_blocks_and_never_all_pruned(widths, sparsity, align, seed):
    """Odd widths made pruned nets slower in other tools; an emptied group breaks the network."""
    generator = torch.Generator().manual_seed(seed)
    caps = channel_caps(widths, 0.98, align)
    if round(sparsity * sum(widths)) > sum(caps):
        with pytest.raises(UsageError, match="channels"):
            Budget(Channel(sparsity, align=align), widths, 0.98)
        return
    scores = [torch.rand(width, generator=generator) + 0.01 for width in widths]
    counts = channel_counts(scores, sparsity, caps, align)
    for width, count, cap in zip(widths, counts, caps, strict=True):
        kept = width - count
        assert kept == width or (kept % align == 0 and kept >= align)
        assert 0 <= count <= cap
    if all(width % align == 0 and width >= 4 * align for width in widths):
        assert abs(sum(counts) - sparsity * sum(widths)) <= max(align, 0.05 * sum(widths))


def test_channel_scores_are_compared_on_one_scale():
    """Filters of 3x3x3 and 1x1x512 differ in norm by construction; raw ranking would empty one group."""
    pattern = torch.linspace(0.5, 1.5, 32)
    assert channel_counts([pattern, pattern * 1000], 0.5, channel_caps([32, 32], 0.98, 8), 8) == [16, 16]


def test_unreachable_budget_says_what_can_be_reached():
    """The message must carry the number to ask for instead, before any training."""
    with pytest.raises(UsageError, match="at most 180 can") as caught:
        Budget(Unstructured(0.95), [100, 100], 0.9)
    assert "0.9" in str(caught.value.hint)
