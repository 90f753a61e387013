"""Which form each weight takes in a Core ML package, chosen by the bytes it will occupy in weight.bin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LOSSY = ("int8", "palette4", "palette6", "palette8")
SPARSE = "sparse"
JOINT = tuple(f"{SPARSE}+{form}" for form in LOSSY)
TOLERANCES = {
    f"{prefix}{form}": atol
    for form, atol in (("int8", 5e-2), ("palette8", 5e-2), ("palette6", 1e-1), ("palette4", 3e-1))
    for prefix in ("", f"{SPARSE}+")
}
"""What a quantised file may differ from the float program, relative to max|y|; the gate of accuracy is the stricter."""
_NUMBERS = {"int8": 8.0, "palette4": 4.0, "palette6": 6.0, "palette8": 8.0}
STORED_BITS = {
    precision: {
        "dense": (width, 0.0),
        SPARSE: (1.0, width),
        **{form: (bits, 0.0) for form, bits in _NUMBERS.items()},
        **{f"{SPARSE}+{form}": (1.0, bits) for form, bits in _NUMBERS.items()},
    }
    for precision, width in (("fp16", 16.0), ("fp32", 32.0))
}
"""What an element costs, in bits: every one, and every one that is not zero."""
ENCODINGS = ("auto", "dense", SPARSE, *LOSSY, *JOINT)

_ALIGNMENT = 64
_RECORD = 64
_PROGRAM_BYTES = {False: 160, True: 520}
"""What a form other than dense adds to the program itself, measured: one operator more, or (joint forms) two."""


def lossy_part(encoding: str) -> str:
    """Return the numbers' form of an encoding: "int8" for "sparse+int8", "" where values are kept."""
    part = encoding.rpartition("+")[2]
    return part if part in LOSSY else ""


def demands_sparse(encoding: str) -> bool:
    """Whether the encoding promises that at least one weight is stored sparsely."""
    return encoding == SPARSE or encoding in JOINT


def chosen_form(values: Array, encoding: str) -> str:
    """Return the form ("dense", "sparse", "int8", "sparse+int8", ...) with the fewest bytes; dense wins a tie."""
    sizes = predicted_bytes(values, encoding)
    return min(sizes, key=lambda form: (sizes[form], form != "dense"))


def predicted_bytes(values: Array, encoding: str) -> dict[str, int]:
    """Return, for each form that `encoding` allows, what a weight of rank >= 2 occupies in the package.

    Args:
        values: The weight in the dtype of the package.
        encoding: One of ENCODINGS.
    """
    lossy = lossy_part(encoding)
    forms = ["dense"] if encoding == "dense" else ["dense", SPARSE, *([lossy, f"{SPARSE}+{lossy}"] if lossy else [])]
    return {form: _bytes(form, values) for form in forms}


def _bytes(form: str, values: Array) -> int:
    sparse = form.startswith(SPARSE)
    count = int(np.count_nonzero(values)) if sparse else values.size
    width = 8 * values.itemsize
    lossy = lossy_part(form)
    bits = {"": width, "int8": 8, "palette4": 4, "palette6": 6, "palette8": 8}[lossy]
    total = _blob(count * bits)
    if sparse:
        total += _blob(values.size)
    if lossy == "int8":
        total += _blob(values.shape[0] * width)
    elif lossy:
        total += _blob((1 << bits) * width)
    return total + (0 if form == "dense" else _PROGRAM_BYTES[form in JOINT])


def _blob(bits: int) -> int:
    return _RECORD + _ALIGNMENT * math.ceil(bits / (8 * _ALIGNMENT))
