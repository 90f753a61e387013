"""Every codec by name, the families a user can ask for, and what each costs when a file is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pdp_export.encoding import bitmask, gaps, nm, rice
from pdp_export.encoding.code import Array, Code, Codec, require
from pdp_export.encoding.expressions import Expression, Payload, cast
from pdp_export.encoding.zeros import positive_zeros


def _dense_decode(code: Code) -> Array:
    values = code.arrays["values"]
    require(values.shape == code.shape, f"values of {values.shape} do not fill {code.shape}")
    return values


def _dense_rebuild(sample: Code, arrays: Mapping[str, Array], constants: Mapping[str, Array]) -> Code:
    del sample, constants
    return Code("dense", arrays, arrays["values"].shape)


DENSE = Codec(
    encode=lambda values: Code("dense", {"values": positive_zeros(values)}, values.shape),
    decode=_dense_decode,
    predicted_bytes=lambda values: values.nbytes,
    graph=lambda _: Payload("values"),
    samples=lambda: (Code("dense", {"values": np.zeros((1, 1), np.float32)}, (1, 1)),),
    rebuild=_dense_rebuild,
)

SPARSE_KEY = "pdp_export.sparse_weights"
"""Key of a file's metadata that says how many weights were written sparsely; optimizers keep it."""

CODECS: Mapping[str, Codec] = {
    "dense": DENSE,
    **{f"gap{width}": gaps.codec(width) for width in gaps.WIDTHS},
    "bitmask": bitmask.CODEC,
    "bitmask2": bitmask.TWICE,
    **{f"rice{low}": rice.codec(low) for low in rice.LOW_BITS},
    "nm": nm.CODEC,
}

_GAPS = tuple(f"gap{width}" for width in gaps.WIDTHS)
_RICE = tuple(f"rice{low}" for low in rice.LOW_BITS)

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "gap": _GAPS, "gap8": ("gap8",), "bitmask": ("bitmask",), "bitmask2": ("bitmask2",), "rice": _RICE, "nm": ("nm",),
}  # fmt: skip
"""What one word in a recipe or behind ``--encode`` stands for."""

AUTO: Mapping[str, tuple[str, ...]] = {
    "load": (*_GAPS, "nm"),
    "size": tuple(name for name in CODECS if name != "dense"),
}
"""What "auto" chooses from. Gaps and N:M groups touch the nonzeros only when they are decoded; the others every bit."""


def decode(code: Code) -> Array:
    """Return the tensor; raises ValueError for codes that contradict themselves."""
    return CODECS[code.encoding].decode(code)


def graph(code: Code, dtype: np.dtype[Any]) -> Expression:
    """Return the decoder of a code as an expression that ends in the tensor, in `dtype`.

    Values of another dtype are widened last: what ONNX Runtime holds while it decodes is half as large for float16.
    """
    decoded = CODECS[code.encoding].graph(code)
    return decoded if code.arrays["values"].dtype == dtype else cast(decoded, dtype.name)
