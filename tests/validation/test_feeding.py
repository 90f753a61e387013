"""Feeding: the file's layout, dtype and batch must not change what the samples are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.errors import DataError
from pdp_export.results import TensorSpec
from pdp_export.validation.feeding import first_batch, fixed_batch, run_batches


class _Session:
    """Answers the sum over a sample, and the input itself; checks what it is given."""

    def __init__(self, spec, outputs=("sum", "same")):
        self.inputs = (spec,)
        self.outputs = tuple(
            TensorSpec(name=name, shape=spec.shape if rank4 else (spec.shape[0], 1), layout=spec.layout)
            for name, rank4 in zip(outputs, (False, True), strict=True)
        )
        self.batches = []

    def run(self, inputs):
        (spec,) = self.inputs
        array = inputs[spec.name]
        assert array.dtype == spec.dtype
        assert array.shape[1:] == spec.shape[1:]
        assert 0 in spec.dynamic or len(array) == spec.shape[0]
        self.batches.append(len(array))
        total = array.astype(np.float64).sum(axis=(1, 2, 3))[:, None]
        return {self.outputs[0].name: total, self.outputs[1].name: array.copy()}


@given(st.integers(1, 17), st.integers(1, 6), st.booleans(), st.booleans())
def test_every_sample_comes_back_once_in_order(samples, batch, dynamic, nhwc):
    """Splitting, padding of the last batch and transposing must be invisible."""
    shape = (batch, 5, 4, 3) if nhwc else (batch, 3, 5, 4)
    spec = TensorSpec(name="x", shape=shape, dynamic={0: "batch"} if dynamic else {}, layout="NHWC" if nhwc else "NCHW")
    session = _Session(spec)
    x = np.random.default_rng(0).standard_normal((samples, 3, 5, 4)).astype(np.float32)
    got = run_batches(session, {"x": x}, ("sum", "same"), batch=batch)
    assert np.array_equal(got["same"], x)
    assert np.allclose(got["sum"][:, 0], x.sum(axis=(1, 2, 3)))
    assert sum(session.batches) == (samples if dynamic else -(-samples // batch) * batch)


def test_renamed_inputs_and_outputs_are_matched_by_position():
    """Some converters rename; the order of inputs and outputs is kept by all of them."""
    session = _Session(TensorSpec(name="serving_default_x:0", shape=(2, 3, 4, 4)), outputs=("out_0", "out_1"))
    got = run_batches(session, {"x": np.ones((2, 3, 4, 4), np.float32)}, ("sum", "same"))
    assert list(got) == ["sum", "same"]
    assert got["sum"].shape == (2, 1)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones((2, 3, 9, 9), np.float32)}, "takes shape"),
        ({"x": np.ones((0, 3, 4, 4), np.float32)}, "at least one"),
        ({"x": np.ones((2, 3, 4, 4)), "z": np.ones((2, 1))}, None),
        ({"a": np.ones((2, 3, 4, 4)), "b": np.ones((2, 1))}, "has 1 inputs"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arrays, words):
    """A wrong shape must not reach a native runtime, which may crash; an extra array is no error."""
    session = _Session(TensorSpec(name="x", shape=(2, 3, 4, 4)))
    if words is None:
        assert run_batches(session, arrays, ("sum", "same"))["sum"].shape == (2, 1)
    else:
        with pytest.raises(DataError, match=words):
            run_batches(session, arrays, ("sum", "same"))


def test_quantized_inputs_are_refused():
    """Casting floats to int8 would silently feed zeros."""
    session = _Session(TensorSpec(name="x", shape=(2, 3, 4, 4), dtype="int8"))
    with pytest.raises(DataError, match="wants int8"):
        run_batches(session, {"x": np.ones((2, 3, 4, 4), np.float32)}, ("sum", "same"))


def test_first_batch_obeys_a_fixed_batch():
    """A latency of batch 1 must not be reported for a file that only runs batch 4."""
    fixed = TensorSpec(name="x", shape=(4, 3, 4, 4))
    free = TensorSpec(name="x", shape=(4, 3, 4, 4), dynamic={0: "batch"})
    x = {"x": np.ones((2, 3, 4, 4), np.float32)}
    assert first_batch(_Session(fixed), x, 1)[1] == 4
    feed, size = first_batch(_Session(free), x, 1)
    assert (size, feed["x"].shape[0]) == (1, 1)
    assert fixed_batch((free,)) is None
