"""int8 and palettes: zeros and signs stay, every weight gets the nearest number, equal weights give equal bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pdp_export.encoding import integer8, palette

SETTINGS = settings(deadline=None, max_examples=60)
values = st.one_of(st.just(0.0), st.floats(0.0625, 8, width=16), st.floats(-8, -0.0625, width=16))
weights = hnp.arrays(np.float16, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9), elements=values)


@SETTINGS
@given(weights=weights)
def test_integers_keep_zeros_and_lose_half_a_step(weights: np.ndarray[Any, Any]):
    """Pins an offset that moves zeros, a scale over the wrong axis, and clipped extremes."""
    codes = integer8.encode(weights)
    decoded = integer8.decode(codes)
    assert decoded.dtype == weights.dtype
    assert (decoded[weights == 0] == 0).all()
    step = np.broadcast_to(codes.scale.astype(np.float64), weights.shape)
    error = np.abs(decoded.astype(np.float64) - weights.astype(np.float64))
    rounding = np.abs(weights.astype(np.float64)) * 2e-3 + 1e-7  # the scale and the product are halves
    assert (error <= step / 2 + rounding).all()


@SETTINGS
@given(weights=weights, bits=st.sampled_from([4, 6, 8]))
def test_palettes_keep_zeros_and_signs_and_choose_the_nearest(weights: np.ndarray[Any, Any], bits: int):
    """Pins a centroid at zero that revives or kills weights, and an index that is not the nearest entry."""
    codes = palette.encode(weights, bits)
    decoded = palette.decode(codes)
    assert codes.entries.size == 1 << bits
    assert ((decoded == 0) == (weights == 0)).all()
    assert (np.sign(decoded) == np.sign(weights)).all()
    own = codes.entries.astype(np.float64)
    nearest = np.abs(weights.astype(np.float64)[..., None] - own[own != 0]).min(-1, initial=np.inf)
    error = np.abs(decoded.astype(np.float64) - weights.astype(np.float64))
    kept = weights != 0
    assert (error[kept] <= nearest[kept] + 1e-9).all()


@SETTINGS
@given(weights=weights, bits=st.sampled_from([4, 6, 8]))
def test_palettes_beside_a_mask_serve_the_others_alone(weights: np.ndarray[Any, Any], bits: int):
    """Pins an entry wasted on zeros where the mask holds them already."""
    mask = weights != 0
    decoded = palette.decode_nonzero(palette.encode_nonzero(weights, bits), mask)
    assert ((decoded != 0) == mask).all()
    if np.unique(weights[mask]).size <= 1 << bits:
        assert np.array_equal(decoded, np.where(mask, weights, np.float16(0)))


@pytest.mark.parametrize("bits", [4, 6])
def test_a_palette_is_about_as_good_as_k_means_can_be(bits: int):
    """Pins clusters of equal count or equal width, whose error is far above that of Lloyd's."""
    draws = np.random.default_rng(0).standard_normal((64, 200)).astype(np.float16)
    decoded = palette.decode_nonzero(palette.encode_nonzero(draws, bits), draws != 0).astype(np.float64)
    error = np.mean((decoded - draws.astype(np.float64)) ** 2)
    assert error < {4: 0.0097, 6: 0.00072}[bits]  # Max 1960: 0.0095 at best for 16 levels of a Gaussian
    again = palette.encode_nonzero(draws, bits)
    assert np.array_equal(again.entries, palette.encode_nonzero(draws.copy(), bits).entries)
