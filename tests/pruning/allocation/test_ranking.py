"""The budget: met exactly, capped per layer, in whole blocks of channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.errors import UsageError
from pdp_export.pruning.allocation import Budget, weight_caps
from pdp_export.pruning.allocation.channel_blocks import channel_caps
from pdp_export.pruning.patterns import NM, Block, Channel, Unstructured

layers = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=40), min_size=1, max_size=5)


@given(
    layers=layers,
    sparsity=st.floats(0.01, 0.99),
    most=st.floats(0.3, 1.0),
    method=st.sampled_from(["global", "uniform", "erk"]),
)
def test_weights_meet_the_sparsity_exactly_within_the_caps(layers, sparsity, most, method):
    """What a cap takes from one layer must be pruned in the others, to the last weight, by every method."""
    scores = [torch.tensor(layer, dtype=torch.float32) for layer in layers]
    sizes = [len(score) for score in scores]
    shapes = [(size, 1 + index) for index, size in enumerate(sizes)]
    caps = weight_caps(sizes, most)
    if round(sparsity * sum(sizes)) > sum(caps):
        with pytest.raises(UsageError, match="cannot be reached"):
            Budget(Unstructured(sparsity), sizes, most, method=method, shapes=shapes)
        return
    counts = Budget(Unstructured(sparsity), sizes, most, method=method, shapes=shapes).counts(scores)
    assert sum(counts) == round(sparsity * sum(sizes))
    assert all(0 <= count <= cap < size for count, cap, size in zip(counts, caps, sizes, strict=True))


@given(layers=layers, sparsity=st.floats(0.01, 0.9))
def test_global_prunes_what_a_plain_sort_would(layers, sparsity):
    """Many equal scores, and zeros, must be cut at the right place: earlier layers first."""
    sizes = [len(layer) for layer in layers]
    order = sorted((score, index) for index, layer in enumerate(layers) for score in layer)
    pruned = order[: round(sparsity * sum(sizes))]
    expected = [sum(index == layer for _, index in pruned) for layer in range(len(layers))]
    if any(count > cap for count, cap in zip(expected, weight_caps(sizes, 1.0), strict=True)):
        return  # an emptied layer: the cap decides, see above
    scores = [torch.tensor(layer, dtype=torch.float32) for layer in layers]
    assert Budget(Unstructured(sparsity), sizes, 1.0).counts(scores) == expected


@given(layers=layers, less=st.floats(0.05, 0.5), more=st.floats(0.5, 0.7))
def test_more_sparsity_gives_no_weight_back(layers, less, more):
    """A layer that gets denser when the whole should get sparser is no ranking."""
    scores = [torch.tensor(layer, dtype=torch.float32) for layer in layers]
    sizes = [len(score) for score in scores]
    fewer, further = (Budget(Unstructured(share), sizes, 1.0).counts(scores) for share in (less, more))
    assert all(a <= b for a, b in zip(fewer, further, strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_ranking_is_global_on_any_scale(scale):
    """A layer of small weights must lose more than a layer of large ones; squares of tiny weights vanish in fp32."""
    scores = [torch.linspace(0.0, 0.1, 100) * scale, torch.linspace(0.05, 1.0, 100) * scale]
    counts = Budget(Unstructured(0.5), [100, 100], 1.0).counts(scores)
    threshold = torch.cat(scores).sort().values[99]
    assert counts == [int((score <= threshold).sum()) for score in scores]


def test_cap_moves_the_excess_to_other_layers():
    """One global threshold put 99.7 % on a single layer; the cap must stop that without missing the target."""
    scores = [torch.full((1000,), 1e-6), torch.linspace(0.5, 1.0, 1000)]
    assert Budget(Unstructured(0.6), [1000, 1000], 0.9).counts(scores) == [900, 300]


@given(
    widths=st.lists(st.integers(2, 70), min_size=1, max_size=6),
    sparsity=st.floats(0.05, 0.95),
    align=st.sampled_from([1, 4, 8]),
    method=st.sampled_from(["global", "uniform"]),
    seed=st.integers(0, 1000),
)
def test_channels_are_kept_in_blocks_and_never_all_pruned(widths, sparsity, align, method, seed):
    """Odd widths made pruned nets slower in other tools; an emptied group breaks the network."""
    generator = torch.Generator().manual_seed(seed)
    caps = channel_caps(widths, 0.98, align)
    if round(sparsity * sum(widths)) > sum(caps):
        with pytest.raises(UsageError, match="channels"):
            Budget(Channel(sparsity, align=align), widths, 0.98, method=method)
        return
    scores = [torch.rand(width, generator=generator) + 0.01 for width in widths]
    counts = Budget(Channel(sparsity, align=align), widths, 0.98, method=method).counts(scores)
    for width, count, cap in zip(widths, counts, caps, strict=True):
        kept = width - count
        assert kept == width or (kept % align == 0 and kept >= align)
        assert 0 <= count <= cap
    if align == 1:
        assert sum(counts) == round(sparsity * sum(widths))
    if all(width % align == 0 and width >= 4 * align for width in widths):
        assert abs(sum(counts) - sparsity * sum(widths)) <= max(align, 0.05 * sum(widths))


def test_channel_scores_are_compared_on_one_scale():
    """Filters of 3x3x3 and 1x1x512 differ in norm by construction; raw ranking would empty one group."""
    scores = torch.linspace(0.5, 1.5, 32)
    assert Budget(Channel(0.5, align=8), [32, 32], 0.98).counts([scores, scores * 1000]) == [16, 16]


def test_blocks_count_like_weights():
    """The unit of a block pattern is a block, not the weights in it."""
    budget = Budget(Block(0.5, 1, 4), [10, 30], 0.9)
    assert budget.counts([torch.zeros(10), torch.arange(30.0) + 1]) == [9, 11]


def test_nm_fixes_every_layer_and_refuses_what_cannot_change_it():
    """N:M has one share per layer; an option without effect must not look as if it had one."""
    assert Budget(NM(1, 4), [16, 400], 0.98).counts([torch.rand(16), torch.rand(400)]) == [12, 300]
    with pytest.raises(UsageError, match="same share of every layer"):
        Budget(NM(2, 4), [16], 0.98, method="uniform")
    with pytest.raises(UsageError, match="same share of every layer"):
        Budget(NM(2, 4), [16], 0.98, budget={"macs": 0.5})
    with pytest.raises(UsageError, match=r"max_layer_sparsity is 0\.7"):
        Budget(NM(1, 4), [16], 0.7)
    with pytest.raises(UsageError, match="no whole groups of 4"):
        Budget(NM(1, 4), [18], 0.98)


def test_unreachable_sparsity_says_what_can_be_reached():
    """The message must carry the number to ask for instead, before any training."""
    with pytest.raises(UsageError, match="at most 180 can") as caught:
        Budget(Unstructured(0.95), [100, 100], 0.9)
    assert "0.9" in str(caught.value.hint)


def test_unknown_method_and_cap():
    """A misspelt allocation must not fall back to the default."""
    with pytest.raises(UsageError, match="unknown allocation 'erl' \\(did you mean 'erk'"):
        Budget(Unstructured(0.5), [10], 0.98, method="erl")
    with pytest.raises(UsageError, match="max_layer_sparsity is 0"):
        Budget(Unstructured(0.5), [10], 0.0)
