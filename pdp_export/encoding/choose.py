"""Picks the smallest encoding of a tensor from its values alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pdp_export.encoding import bitmask, gap8

Array = np.ndarray[Any, Any]

PREDICTORS: Mapping[str, Callable[[Array], int]] = {
    "dense": lambda values: values.nbytes,
    "gap8": gap8.predicted_bytes,
    "bitmask": bitmask.predicted_bytes,
}


def predicted_bytes(values: Array, candidates: Iterable[str] = PREDICTORS) -> dict[str, int]:
    """Return the exact payload in bytes of a tensor under each candidate encoding."""
    return {name: PREDICTORS[name](values) for name in candidates}


def choose(
    values: Array, candidates: Iterable[str] = PREDICTORS, overhead: Mapping[str, int] | None = None
) -> tuple[str, int]:
    """Return the encoding with the fewest bytes, and those bytes; the first candidate wins a tie.

    Args:
        values: The tensor.
        candidates: Names out of PREDICTORS.
        overhead: Bytes that a file format adds per encoding (nodes, names); missing means 0.
    """
    extra = overhead or {}
    total = {name: size + extra.get(name, 0) for name, size in predicted_bytes(values, candidates).items()}
    best = min(total, key=lambda name: total[name])
    return best, total[best]
