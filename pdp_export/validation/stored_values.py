"""What a weight of the model must be after it was stored: rounded, or quantised by the codec that the file names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pdp_export.encoding import integer8, palette

Array = np.ndarray[Any, Any]
Form = tuple[np.dtype[Any], str]
"""The dtype of a decoded weight, and the encoding that the file names for it."""


def form_of(dtype: np.dtype[Any], encoding: str) -> Form:
    """Return the part of dtype and encoding that decides the values: lossless encodings are all alike."""
    return dtype, encoding if encoding in _CODECS else ""


def as_stored(values: Array, form: Form) -> Array:
    """Return the float32 weights of the model as a file of this form must decode them, bit by bit.

    Codecs are deterministic: a file quantised by another tool differs.
    """
    dtype, encoding = form
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    return _CODECS[encoding](rounded) if encoding in _CODECS else rounded


def _palette(bits: int) -> Callable[[Array], Array]:
    return lambda values: palette.decode(palette.encode(values, bits))


def _masked_palette(bits: int) -> Callable[[Array], Array]:
    return lambda values: palette.decode_nonzero(palette.encode_nonzero(values, bits), values != 0)


def _integers(values: Array) -> Array:
    return integer8.decode(integer8.encode(values))


_CODECS: dict[str, Callable[[Array], Array]] = {
    "int8": _integers,
    "sparse+int8": _integers,
    **{f"palette{bits}": _palette(bits) for bits in (4, 6, 8)},
    **{f"sparse+palette{bits}": _masked_palette(bits) for bits in (4, 6, 8)},
}
