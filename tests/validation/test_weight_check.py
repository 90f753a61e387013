"""Stored weights: every way a file can differ from the model must be found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp_export.results import StoredWeight, Verdict
from pdp_export.validation.weight_check import check_stored_weights


def _sparse(shape, seed, density=0.3):
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(shape).astype(np.float32)
    return values * (generator.random(shape) < density)


def _net(seed=0):
    return {"a": _sparse((8, 3, 3, 3), seed), "b": _sparse((8, 8, 3, 3), seed + 1), "c": _sparse((10, 8), seed + 2)}


def _stored(weights, dtype=np.float32, rename=None):
    rename = rename or (lambda name: name)
    return [StoredWeight(rename(name), values.astype(dtype), "gap8") for name, values in weights.items()]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("rename", [None, lambda name: f"op_{ord(name)}"])
def test_equal_weights_pass(dtype, rename):
    """Rounding to float16 and renaming by the converter are no differences."""
    weights = _net()
    check = check_stored_weights(weights, _stored(weights, dtype, rename))
    assert check.verdict is Verdict.PASS
    assert check.tensors_compared == 3
    assert check.zeros_expected == check.zeros_found > 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_a_single_moved_zero_is_found(seed, renamed):
    """One zero that swapped places with a weight keeps count, sum and histogram; only bits tell."""
    weights = _net()
    moved = {name: values.copy() for name, values in weights.items()}
    flat = moved["b"].reshape(-1)
    generator = np.random.default_rng(seed)
    zero = generator.choice(np.flatnonzero(flat == 0))
    full = generator.choice(np.flatnonzero(flat))
    flat[zero], flat[full] = flat[full], flat[zero]
    check = check_stored_weights(weights, _stored(moved, rename=(lambda name: f"x{name}") if renamed else None))
    assert check.verdict is Verdict.FAIL
    assert check.differing_elements == 2
    assert check.zeros_expected == check.zeros_found
    assert "most in b (2)" in check.reason


def test_last_bit_is_found():
    """One unit in the last place differs by 1e-8 and would pass every tolerance."""
    weights = _net()
    changed = {name: values.copy() for name, values in weights.items()}
    index = np.flatnonzero(changed["c"])[0]
    changed["c"].reshape(-1)[index] = np.nextafter(changed["c"].reshape(-1)[index], np.float32(9))
    assert check_stored_weights(weights, _stored(changed)).differing_elements == 1


def test_same_names_with_swapped_contents_fail():
    """A file whose two layers of one shape were exchanged must not pass because the bytes exist somewhere."""
    weights = {"a": _sparse((8, 8), 1), "b": _sparse((8, 8), 2)}
    swapped = [StoredWeight("a", weights["b"], "dense"), StoredWeight("b", weights["a"], "dense")]
    assert check_stored_weights(weights, swapped).verdict is Verdict.FAIL


def test_missing_tensor_fails_and_is_named():
    """A layer that the converter dropped must be named."""
    weights = _net()
    check = check_stored_weights(weights, _stored({name: weights[name] for name in ("a", "c")}))
    assert check.verdict is Verdict.FAIL
    assert check.unmatched == ("b",)


def test_negative_zeros_and_unit_axes_are_no_difference():
    """-0.0 equals 0.0, and a Linear stored as a 1x1 convolution is the same weight."""
    weights = {"fc": np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)}
    stored = [StoredWeight("fc", np.array([[-0.0, 1.0], [2.0, -0.0]], np.float32).reshape(2, 2, 1, 1), "dense")]
    assert check_stored_weights(weights, stored).verdict is Verdict.PASS


def test_quantized_and_empty_are_not_run():
    """Neither integers we did not compare nor a model without weights may count as a pass."""
    weights = {"fc": np.ones((2, 2), np.float32)}
    quantized = check_stored_weights(weights, [StoredWeight("fc", np.ones((2, 2), np.int8), "int8")])
    assert quantized.verdict is Verdict.NOT_RUN
    assert check_stored_weights({}, []).verdict is Verdict.NOT_RUN


def test_identical_tensors_are_paired_one_to_one():
    """Two equal layers need two stored tensors; one copy is not enough."""
    twin = _sparse((4, 4), 3)
    both = check_stored_weights({"a": twin, "b": twin}, _stored({"x": twin, "y": twin}))
    one = check_stored_weights({"a": twin, "b": twin}, _stored({"x": twin}))
    assert (both.verdict, one.verdict) == (Verdict.PASS, Verdict.FAIL)
