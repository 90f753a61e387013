"""The sparse tensors of .tflite files, as arrays."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from pdp_export.encoding import tflite_csr
from pdp_export.encoding.tflite_csr import Level, SparseTensor
from pdp_export.encoding.tflite_layout import to_torch

FLOATS = st.sampled_from([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 1e-45, np.float32(3e38)])


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5), elements=FLOATS))
@settings(max_examples=200, deadline=None)
def test_every_bit_but_the_sign_of_zero_survives(dense):
    """Decoding lost NaN payloads, denormals or a row at the border, or kept -0.0."""
    expected = dense.copy()
    expected[expected == 0] = 0
    decoded = tflite_csr.decode(tflite_csr.encode(dense))
    assert decoded.shape == dense.shape
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("columns", "kept", "segments", "indices"),
    [(256, 255, "uint8", "uint8"), (257, 256, "uint16", "uint16"), (70_000, 66_000, "int32", "int32")],
)
def test_indices_use_the_smallest_type_that_holds_them(columns, kept, segments, indices):
    """An index type one step too large doubled the file; one step too small wrapped around."""
    dense = np.zeros((1, columns), np.float32)
    dense[0, columns - kept :] = 1
    sparse = tflite_csr.encode(dense)
    assert (sparse.levels[-1].segments.dtype, sparse.levels[-1].indices.dtype) == (segments, indices)
    assert np.array_equal(tflite_csr.decode(sparse), dense)
    width = np.dtype(indices).itemsize
    assert sparse.stored_bytes == kept * (4 + width) + 2 * np.dtype(segments).itemsize


def test_blocks_and_other_orders_decode():
    """Files of other tools walk columns first, or store blocks: (4, 4) in 2x2 blocks, compressed over block columns."""
    levels = (
        Level(size=2),
        Level(segments=np.array([0, 1, 2], np.int32), indices=np.array([1, 0], np.int32)),
        Level(size=2),
        Level(size=2),
    )
    sparse = SparseTensor((4, 4), (0, 1, 2, 3), levels, np.arange(1, 9, dtype=np.float32), blocked=(0, 1))
    expected = [[0, 0, 1, 2], [0, 0, 3, 4], [5, 6, 0, 0], [7, 8, 0, 0]]
    assert tflite_csr.decode(sparse).tolist() == expected
    columns_first = SparseTensor((2, 3), (1, 0), (Level(size=3), Level(size=2)), np.arange(6, dtype=np.float32))
    assert tflite_csr.decode(columns_first).tolist() == [[0, 2, 4], [1, 3, 5]]


GOOD = {"segments": np.array([0, 1, 2]), "indices": np.array([2, 0])}


@pytest.mark.parametrize(
    "damage",
    [
        {"segments": np.array([0, 2])},
        {"segments": np.array([0, 2, 1])},
        {"segments": np.array([1, 1, 2])},
        {"indices": np.array([3, 0])},
        {"indices": np.array([-1, 0])},
        {"segments": np.array([0, 2, 2])},
        {"values": np.ones(3, np.float32)},
        {"rows": 3},
        {"order": (0, 0)},
        {"blocked": (5,)},
    ],
)
def test_contradictions_are_refused(damage):
    """A damaged file wrote outside the tensor, or silently decoded to other weights."""
    parts = {**GOOD, "values": np.ones(2, np.float32), "rows": 2, "order": (0, 1), "blocked": (), **damage}
    levels = (Level(size=parts["rows"]), Level(segments=parts["segments"], indices=parts["indices"]))
    with pytest.raises(ValueError, match=r".+"):
        tflite_csr.decode(SparseTensor((2, 3), parts["order"], levels, parts["values"], parts["blocked"]))


def test_a_small_file_cannot_ask_for_a_huge_tree():
    """A hundred bytes that claim 2**40 rows filled the memory before the contradiction was seen."""
    last = Level(segments=np.array([0, 1]), indices=np.array([0]))
    claimed = SparseTensor((1 << 40, 3), (0, 1), (Level(size=1 << 40), last), np.ones(1, np.float32))
    with pytest.raises(ValueError, match="share 1 entries"):
        tflite_csr.decode(claimed)


def test_layouts_return_to_torch():
    """A depthwise weight came back with channels and kernel mixed up."""
    assert to_torch("CONV_2D", np.zeros((8, 3, 5, 4))).shape == (8, 4, 3, 5)
    assert to_torch("DEPTHWISE_CONV_2D", np.zeros((1, 3, 5, 8))).shape == (8, 1, 3, 5)
    assert to_torch("TRANSPOSE_CONV", np.zeros((8, 3, 5, 4))).shape == (4, 8, 3, 5)
    assert to_torch("FULLY_CONNECTED", np.zeros((8, 4))).shape == (8, 4)
