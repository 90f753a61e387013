"""Parity: what counts as equal, and what can never pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.results import Verdict
from pdp_export.validation.parity import compare_outputs


def _one(reference, got, atol=1e-3):
    return compare_outputs({"y": np.asarray(reference)}, {"y": np.asarray(got)}, atol)[0]


@given(st.floats(1e-6, 1e6), st.floats(0, 1))
def test_tolerance_is_relative_to_the_range(scale, share):
    """The same relative error must get the same verdict for outputs of 1e-6 and of 1e6."""
    reference = np.array([scale, 0.0, -scale / 2])
    record = _one(reference, reference + np.array([0.0, share * 2e-3 * scale, 0.0]))
    assert record.relative_to_range == pytest.approx(share * 2e-3, rel=1e-6, abs=1e-12)
    if abs(share - 0.5) > 1e-6:
        assert (record.verdict is Verdict.PASS) == (share < 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails(bad):
    """NaN compares false with everything, so a naive `error > atol` would pass it."""
    record = _one([1.0, 2.0], [1.0, bad])
    assert record.verdict is Verdict.FAIL
    assert "1 of 2 values from the file are NaN" in record.reason
    assert record.max_abs is None


def test_reference_that_is_not_finite_fails_and_names_the_model():
    """Equal infinities on both sides prove nothing."""
    record = _one([np.inf], [np.inf])
    assert record.verdict is Verdict.FAIL
    assert "the PyTorch model" in record.reason


def test_missing_output_and_wrong_shape_fail():
    """A file that lost an output, or transposed it, must not pass by broadcasting."""
    missing = compare_outputs({"y": np.ones((2, 3))}, {"z": np.ones((2, 3))}, 1.0)[0]
    shaped = _one(np.ones((2, 3)), np.ones((2, 1)), atol=1.0)
    assert [missing.verdict, shaped.verdict] == [Verdict.FAIL, Verdict.FAIL]
    assert "(2, 1) instead of (2, 3)" in shaped.reason


def test_all_zero_reference():
    """max|y| = 0 must not divide by zero: equal passes, anything else fails."""
    assert _one(np.zeros(3), np.zeros(3)).verdict is Verdict.PASS
    record = _one(np.zeros(3), [0, 1e-9, 0])
    assert record.verdict is Verdict.FAIL
    assert record.relative_to_range is None


def test_relative_error_leaves_out_values_near_zero():
    """A reference of 1e-9 beside 1.0 would report a relative error of millions."""
    record = _one([1.0, 1e-9], [1.001, 1e-3], atol=1e-2)
    assert record.max_rel == pytest.approx(1e-3)
    assert record.max_rel_note.startswith("1 of 2 values")


def test_top1_agreement_only_for_class_rows():
    """Agreement counts rows, and is not reported for maps."""
    got = _one([[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]], atol=2.0)
    assert got.top1_agreement == 0.5
    assert _one(np.ones((1, 2, 3)), np.ones((1, 2, 3))).top1_agreement is None


def test_cosine_sees_a_flipped_sign():
    """The cosine of an output and its negative is -1."""
    assert _one([1.0, -2.0], [-1.0, 2.0]).cosine == pytest.approx(-1.0)
