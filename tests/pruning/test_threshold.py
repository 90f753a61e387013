"""Selection instead of sorting, with ties broken by position."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.pruning.threshold import keep_mask, midpoint

few_values = st.lists(st.integers(min_value=0, max_value=6), min_size=2, max_size=60)


@given(values=few_values, data=st.data())
def test_midpoint_is_that_of_a_sort(values, data):
    """T must lie midway between the r n smallest and the rest; tied ones must all stay in the soft network."""
    pruned = data.draw(st.integers(min_value=1, max_value=len(values) - 1))
    ordered = sorted(values)
    low, high = ordered[pruned - 1], ordered[pruned]
    expected = (low + high) / 2 if low < high else max((v for v in values if v < low), default=0)
    assert float(midpoint(torch.tensor(values, dtype=torch.float32), pruned)) == expected


@given(values=few_values, data=st.data())
def test_keep_mask_prunes_exactly_the_asked_number_of_the_smallest(values, data):
    """Ties at the threshold must not make the count of zeros differ from round(r n)."""
    scores = torch.tensor(values, dtype=torch.float32)
    pruned = data.draw(st.integers(min_value=0, max_value=len(values) - 1))
    keep = keep_mask(scores, pruned)
    assert int((~keep).sum()) == pruned
    if pruned > 0:
        assert float(scores[~keep].max()) <= float(scores[keep].min())


def test_equal_weights_are_pruned_by_position():
    """All-equal weights need one defined answer, or two runs of the same recipe differ."""
    assert keep_mask(torch.full((5,), 0.3), 2).tolist() == [False, False, True, True, True]


def test_nothing_pruned_has_threshold_zero_and_keeps_all():
    """R = 0 must not half-prune the smallest weight (a clamped index did so elsewhere)."""
    scores = torch.tensor([0.0, 1.0])
    assert float(midpoint(scores, 0)) == 0
    assert keep_mask(scores, 0).all()


@pytest.mark.parametrize("sparsity", [0.5])
def test_worked_matrix_of_the_docstring(sparsity):
    """The matrix in the docstring of Unstructured is a promise."""
    weight = torch.tensor([[0.9, -0.1, 0.4, 0.2], [-0.8, 0.3, -0.1, -0.7]])
    keep = keep_mask(weight.abs().flatten(), round(sparsity * 8)).view_as(weight)
    assert (weight * keep).tolist() == torch.tensor([[0.9, 0, 0.4, 0], [-0.8, 0, 0, -0.7]]).tolist()
