"""gap8 and bitmask: what goes in comes out bit by bit, and the predicted bytes are the real ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pdp_export.encoding import bitmask, choose, gap8
from pdp_export.encoding.zeros import positive_zeros

CODECS = [gap8, bitmask]
DTYPES = st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.uint8, np.int64])


@st.composite
def tensors(draw):
    """Any dtype, rank 0 to 4, any share of zeros, every bit pattern (NaN, infinities, denormals, -0.0)."""
    dtype = np.dtype(draw(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = int(np.prod(shape))
    values = np.frombuffer(rng.bytes(size * dtype.itemsize), dtype).copy()
    special = {"f": [np.nan, np.inf, -0.0, np.finfo(dtype).smallest_subnormal] if dtype.kind == "f" else []}
    for value in special.get(dtype.kind, []):
        values[rng.random(size) < 0.1] = value
    values[rng.random(size) < draw(st.floats(0, 1))] = 0
    return values.reshape(shape)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("codec", CODECS)
@given(tensors())
def test_round_trip_keeps_every_bit(codec, values):
    """A codec that drops a NaN, a denormal, the dtype or the shape."""
    assert same_bits(codec.decode(codec.encode(values)), positive_zeros(values))


@pytest.mark.parametrize("codec", CODECS)
@given(tensors())
def test_predicted_bytes_are_exact(codec, values):
    """A size estimate that is only nearly right makes the wrong choice near the crossover."""
    assert codec.predicted_bytes(values) == codec.encode(values).nbytes


@given(st.lists(st.integers(1, 1500), min_size=1, max_size=20), st.integers(0, 600))
def test_gap8_crosses_long_gaps(gaps, tail):
    """Fillers at 255, 510 and their neighbours: an off-by-one repeats or moves a position."""
    positions = np.cumsum(gaps) - 1
    values = np.zeros(positions[-1] + 1 + tail, np.float32)
    values[positions] = np.arange(1, positions.size + 1)
    codes = gap8.encode(values)
    assert same_bits(gap8.decode(codes), values)
    assert codes.gaps.size == positions.size + sum((gap - 1) // 255 for gap in [gaps[0] - 1, *gaps[1:]] if gap > 0)


@pytest.mark.parametrize("codec", CODECS)
def test_all_zero_and_empty(codec):
    """No nonzero at all must not become an empty array (some runtimes refuse those) nor lose its shape."""
    zero = codec.encode(np.zeros((3, 500), np.float32))
    assert zero.values.size == 1
    assert same_bits(codec.decode(zero), np.zeros((3, 500), np.float32))
    assert codec.decode(codec.encode(np.zeros((0, 4), np.float16))).shape == (0, 4)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (gap8.Gap8(np.array([9], np.uint8), np.ones(1, np.float32), (3, 3)), "outside"),
        (gap8.Gap8(np.array([1, 0], np.uint8), np.ones(2, np.float32), (3, 3)), "repeats"),
        (gap8.Gap8(np.array([1, 1], np.uint8), np.ones(3, np.float32), (3, 3)), "not belong"),
        (bitmask.Bitmask(np.array([7], np.uint8), np.zeros(4, np.float32), (3, 3)), "not belong"),
        (bitmask.Bitmask(np.array([7], np.uint8), np.zeros(3, np.float32), (8,)), "not belong"),
        (bitmask.Bitmask(np.array([1], np.uint8), np.ones(2, np.float32), (8,)), "not belong"),
    ],
)
def test_codes_that_contradict_themselves_are_refused(codes, message):
    """A damaged file must not write outside of the tensor, or decode to something plausible."""
    with pytest.raises(ValueError, match=message):
        (gap8 if isinstance(codes, gap8.Gap8) else bitmask).decode(codes)


def test_rank_table_rebuilds_the_bitmask():
    """The tables that the ONNX graph uses must give the ranks that decode() uses."""
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    values[np.random.default_rng(1).random(1000) < 0.7] = 0
    codes = bitmask.encode(values)
    counts = bitmask.count_table()[codes.mask].astype(np.int64)  # (125,)
    within = bitmask.rank_table()[codes.mask].astype(np.int64)  # (125, 8)
    before = np.cumsum(counts) - counts
    ranks = np.where(within > 0, within + before[:, None], 0).ravel()
    assert same_bits(codes.values[ranks], values)


@given(tensors())
def test_choose_is_never_larger_than_dense(values):
    """An encoding chosen by a rule of thumb can make the file grow."""
    name, size = choose.choose(values)
    assert size == min(values.nbytes, gap8.encode(values).nbytes, bitmask.encode(values).nbytes)
    assert size == choose.PREDICTORS[name](values)


@pytest.mark.parametrize(
    ("zeros", "expected"), [(0.0, "dense"), (0.5, "bitmask"), (0.75, "bitmask"), (0.9, "gap8"), (0.99, "gap8")]
)
def test_choice_follows_the_crossover(zeros, expected):
    """The published crossover for fp32: dense, then the mask, then gap8 from about 7/8 zeros on."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=50_000).astype(np.float32)
    values[rng.random(50_000) < zeros] = 0
    assert choose.choose(values)[0] == expected


def test_overhead_counts():
    """A tiny tensor must stay dense when the decode nodes cost more than they save."""
    values = np.zeros((4, 4), np.float32)
    assert choose.choose(values)[0] == "gap8"
    assert choose.choose(values, overhead={"gap8": 400, "bitmask": 400}) == ("dense", 64)
