"""Every codec: what goes in comes out bit by bit, and the predicted bytes are the real ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pdp_export.encoding import choose, fields, gaps, nm, rank
from pdp_export.encoding.code import Code
from pdp_export.encoding.codecs import CODECS, FAMILIES, decode
from pdp_export.encoding.zeros import positive_zeros

IRREGULAR = [name for name in CODECS if name != "nm"]
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


@pytest.mark.parametrize("name", IRREGULAR)
@settings(deadline=None, max_examples=60)
@given(values=tensors())
def test_round_trip_keeps_every_bit(name, values):
    """A codec that drops a NaN, a denormal, the dtype or the shape; a size estimate that is only nearly right."""
    code = CODECS[name].encode(values)
    assert same_bits(decode(code), positive_zeros(values))
    assert CODECS[name].predicted_bytes(values) == code.nbytes


@st.composite
def regular(draw):
    """N of every M along axis 0 or 1, ranks 2 to 5, groups with fewer nonzeros among them."""
    m, axis = draw(st.sampled_from(sorted(nm.GROUPS))), draw(st.integers(0, 1))
    n = draw(st.integers(1, m - 1))
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    shape[axis] *= m
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=shape).astype(draw(st.sampled_from([np.float32, np.float16, np.float64])))
    blocks = np.moveaxis(values, axis, -1).reshape(-1, m)
    blocks[np.argsort(rng.random(blocks.shape), axis=1) >= n] = 0
    blocks[rng.random(blocks.shape) < 0.1] = 0
    moved = np.moveaxis(values, axis, -1).shape
    values = np.moveaxis(blocks.reshape(moved), -1, axis)
    values[(0,) * len(shape)] = 1
    return values


@settings(deadline=None)
@given(regular())
def test_regular_zeros_round_trip(values):
    """Groups along the wrong axis, or a group with fewer nonzeros than places, decode to other weights."""
    if nm.groups(values) is None:  # one group may have become full by the 1 at its start
        return
    code = CODECS["nm"].encode(values)
    assert same_bits(decode(code), positive_zeros(values))
    assert CODECS["nm"].predicted_bytes(values) == code.nbytes < values.nbytes + values.size


def test_two_of_four_costs_the_published_bits():
    """2:4 in fp32 takes half the values and two bits for each: 53.1 % of the dense bytes."""
    values = np.random.default_rng(0).normal(size=(64, 32, 3, 3)).astype(np.float32)
    values.reshape(64, 8, 4, 9)[:, :, 2:] = 0
    assert nm.groups(values) == (2, 4, 1)
    assert CODECS["nm"].encode(values).nbytes == values.size // 2 * 34 / 8
    assert nm.groups(np.ones((8, 8))) is None
    with pytest.raises(ValueError, match="no axis"):
        CODECS["nm"].encode(np.ones((8, 8)))


@pytest.mark.parametrize("bits", range(9))
def test_fields_of_every_width(bits):
    """Numbers of 3, 5 and 7 bits lie in planes of 4, 2 and 1 bits: a wrong shift mixes them."""
    values = np.random.default_rng(bits).integers(0, 1 << bits, 101)
    planes = fields.split(values, bits, "x")
    assert np.array_equal(fields.join(planes, bits, "x", 101), values)
    assert sum(plane.nbytes for plane in planes.values()) == fields.split_bytes(101, bits)


@pytest.mark.parametrize("width", gaps.WIDTHS)
@settings(deadline=None, max_examples=30)
@given(jumps=st.lists(st.integers(1, 1500), min_size=1, max_size=20), tail=st.integers(0, 600))
def test_gaps_cross_long_stretches(width, jumps, tail):
    """Fillers at 255, 510 and their neighbours: an off-by-one repeats or moves a position."""
    positions = np.cumsum(jumps) - 1
    values = np.zeros(positions[-1] + 1 + tail, np.float32)
    values[positions] = np.arange(1, positions.size + 1)
    code, longest = gaps.encode(values, width), (1 << width) - 1
    assert same_bits(decode(code), values)
    fillers = sum((gap - 1) // longest for gap in [jumps[0] - 1, *jumps[1:]] if gap > 0)
    assert code.arrays["values"].size == positions.size + fillers


@pytest.mark.parametrize("name", IRREGULAR)
def test_all_zero_and_empty(name):
    """No nonzero at all must not become an empty array (some runtimes refuse those) nor lose its shape."""
    codec, zeros = CODECS[name], np.zeros((3, 500), np.float32)
    assert all(array.size for array in codec.encode(zeros).arrays.values())
    assert same_bits(codec.decode(codec.encode(zeros)), zeros)
    assert codec.decode(codec.encode(np.zeros((0, 4), np.float16))).shape == (0, 4)


def _gap8(gaps_, values, shape=(3, 3)):
    return Code("gap8", {"gaps8": np.array(gaps_, np.uint8), "values": values}, shape, {"width": 8})


def _mask(mask, values, shape=(3, 3)):
    return Code("bitmask", {"mask": np.array(mask, np.uint8), "values": values}, shape)


def _rice(unary, low, values, shape=(3, 3)):
    arrays = {"unary": np.array(unary, np.uint8), "low1": np.array(low, np.uint8), "values": values}
    return Code("rice1", arrays, shape, {"low": 1})


def _groups(places, values, shape=(2, 4), m=4):
    return Code("nm", {"places": np.array(places, np.uint8), "values": values}, shape, {"m": m, "axis": 1})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (_gap8([9], np.ones(1)), "outside"),
        (_gap8([1, 0], np.ones(2)), "repeats"),
        (_gap8([1, 1], np.ones(3)), "not belong"),
        (_gap8([1], np.ones((1, 1))), "no list"),
        (_mask([7], np.zeros(4)), "not belong"),
        (_mask([7], np.zeros(3), (8,)), "not belong"),
        (_mask([1], np.ones(2), (8,)), "not belong"),
        (_rice([0b1], [0], np.ones(2)), "1 quotients do not belong"),
        (_rice([0b10000], [0b1], np.ones(1)), "outside"),
        (_rice([0b1, 0], [0], np.ones(1)), "behind the last quotient"),
        (_rice([0b1], [0b10], np.ones(1)), "not zero"),
        (_rice([0b1], [], np.ones(1)), "not belong"),
        (_groups([0b0000], np.ones((2, 2))), "repeat"),
        (_groups([0b0100], np.ones((2, 2))[:1]), "do not fill"),
        (_groups([0x98], np.ones((1, 2)), (1, 8), 8), "outside of a group"),
    ],
)
def test_codes_that_contradict_themselves_are_refused(code, message):
    """A damaged file must not write outside of the tensor, or decode to something plausible."""
    with pytest.raises(ValueError, match=message):
        decode(code)


def test_rank_table_rebuilds_the_bitmask():
    """The tables that the ONNX graph uses must give the ranks that decode() uses."""
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    values[np.random.default_rng(1).random(1000) < 0.7] = 0
    arrays = CODECS["bitmask"].encode(values).arrays
    counts = rank.count_table()[arrays["mask"]].astype(np.int64)  # (125,)
    within = rank.rank_table()[arrays["mask"]].astype(np.int64)  # (125, 8)
    before = np.cumsum(counts) - counts
    ranks = np.where(within > 0, within + before[:, None], 0).ravel()
    assert same_bits(arrays["values"][ranks], values)


def random_zeros(zeros: float, size: int = 50_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.normal(size=size).astype(np.float32)
    values[rng.random(size) < zeros] = 0
    return values


@settings(deadline=None, max_examples=40)
@given(tensors())
def test_choose_is_never_larger_than_dense(values):
    """An encoding chosen by a rule of thumb can make the file grow."""
    for objective in choose.OBJECTIVES:
        name, size = choose.choose(values, choose.candidates("auto", objective))
        assert size == CODECS[name].predicted_bytes(values) <= values.nbytes


@pytest.mark.parametrize(
    ("zeros", "load", "size"),
    [
        (0.0, "dense", "dense"), (0.5, "gap3", "rice0"), (0.75, "gap4", "rice1"), (0.9, "gap6", "rice3"),
        (0.95, "gap7", "rice4"), (0.99, "gap8", "rice6"),
    ],
)  # fmt: skip
def test_choice_follows_the_crossover(zeros, load, size):
    """The width of a gap follows the density; what is only small, not quick to decode, must be asked for."""
    values = random_zeros(zeros)
    found = {goal: choose.choose(values, choose.candidates("auto", goal))[0] for goal in choose.OBJECTIVES}
    assert found == {"load": load, "size": size}


@pytest.mark.parametrize("zeros", [0.5, 0.75, 0.866, 0.9, 0.95])
def test_codes_stay_near_the_entropy(zeros):
    """The point of it all: bytes within 1.04 of mask entropy + values at 90 %, within 1.02 for `size` everywhere."""
    values = random_zeros(zeros, 400_000)
    kept = np.count_nonzero(values) / values.size
    entropy = -(kept * np.log2(kept) + (1 - kept) * np.log2(1 - kept))
    floor = values.size * (entropy + 32 * kept) / 8
    sizes = {goal: choose.choose(values, choose.candidates("auto", goal))[1] / floor for goal in choose.OBJECTIVES}
    assert sizes["size"] < 1.02
    assert sizes["load"] < 1.045


def test_families_name_codecs():
    """A word of the recipe that stands for nothing."""
    assert {name for names in FAMILIES.values() for name in names} == set(CODECS) - {"dense"}
    assert choose.candidates("dense") == ("dense",)
    assert choose.candidates("gap8") == ("dense", "gap8")
