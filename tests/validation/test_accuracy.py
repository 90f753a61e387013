"""Paired accuracy: the interval keeps its coverage, and every flip is counted once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.errors import DataError
from pdp_export.validation.accuracy import Z95, _score, compare_predictions, compare_scores, paired_interval


@given(st.integers(1, 5000), st.data())
def test_interval_holds_the_estimate_and_mirrors(n, data):
    """Swapping the models must mirror the interval; it always holds the estimate and stays in [-1, 1]."""
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    interval, mirrored = paired_interval(lost, gained, n), paired_interval(gained, lost, n)
    assert -1 <= interval.low <= (lost - gained) / n + 1e-9
    assert (lost - gained) / n - 1e-9 <= interval.high <= 1
    assert mirrored.low == pytest.approx(-interval.high, abs=1e-9)
    assert mirrored.high == pytest.approx(-interval.low, abs=1e-9)


def test_no_flips_still_has_a_width():
    """A Wald interval has zero width here and would call 10 samples a proof."""
    interval = paired_interval(0, 0, 10)
    assert interval.high == pytest.approx(Z95**2 / (10 + Z95**2), abs=1e-9)


@pytest.mark.parametrize(("lost", "gained", "n", "delta"), [(9, 4, 200, 0.05), (3, 0, 50, 0.1), (5, 12, 90, -0.02)])
def test_restricted_estimate_maximises_the_likelihood(lost, gained, n, delta):
    """The closed form inside the score test against a brute-force maximum of the trinomial likelihood."""
    grid = np.linspace(max(0.0, -delta) + 1e-9, (1 - delta) / 2 - 1e-9, 400_001)
    likelihood = lost * np.log(grid + delta) + gained * np.log(grid) + (n - lost - gained) * np.log1p(-2 * grid - delta)
    q = grid[likelihood.argmax()]
    expected = (lost - gained - n * delta) / np.sqrt(n * (2 * q + delta - delta**2))
    assert _score(lost, gained, n, delta) == pytest.approx(expected, rel=1e-4)


def test_coverage_of_the_interval():
    """95 % intervals must hold the truth in about 95 % of simulated validation sets, even with few flips."""
    generator = np.random.default_rng(0)
    hits = 0
    for lost, gained, _ in generator.multinomial(300, [0.02, 0.01, 0.97], size=600):
        hits += paired_interval(int(lost), int(gained), 300).contains(0.01)
    assert 0.93 <= hits / 600 <= 0.98


def test_flips_and_lost_class():
    """Equal top-1 can hide a class that vanished: the per-class rows must show it."""
    truth = np.array([0, 0, 1, 1, 2, 2])
    dense = np.array([0, 0, 1, 0, 0, 1])
    pruned = np.array([0, 0, 0, 1, 1, 2])
    result = compare_predictions(truth, dense, pruned, ("cat", "dog"))
    assert (result.dense_correct, result.pruned_correct) == (3, 4)
    assert (result.lost, result.gained, result.other_flips) == (1, 2, 1)
    assert result.drop == pytest.approx(-1 / 6)
    assert [row.label for row in result.per_class] == ["cat", "dog", "2"]
    assert [row.drop for row in result.per_class] == [0.0, 0.0, -0.5]


def test_scores_use_a_paired_bootstrap():
    """A constant loss on very different samples has no spread once paired."""
    dense = np.random.default_rng(0).random(200)
    result = compare_scores("iou", dense, dense - 0.1)
    assert result.drop_interval is not None
    assert result.drop_interval.low == pytest.approx(0.1)
    assert result.drop_interval.high == pytest.approx(0.1)
    assert result.lost is None


def test_unequal_lengths_and_nan_scores_are_refused():
    """A loader that drops its last batch must not be compared sample by sample."""
    with pytest.raises(DataError, match="non-empty"):
        compare_predictions(np.zeros(3), np.zeros(3), np.zeros(2))
    with pytest.raises(DataError, match="NaN"):
        compare_scores("iou", np.array([1.0, np.nan]), np.ones(2))
