"""Shares that do not depend on the weights: uniform and Erdős-Rényi, exact to the last element."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pdp_export.errors import UsageError


def uniform_weights(sizes: Sequence[int]) -> list[float]:
    """Return what each mask keeps in proportion to: its size."""
    return [float(size) for size in sizes]


def erk_weights(sizes: Sequence[int], shapes: Sequence[Sequence[int]] | None) -> list[float]:
    """Return what each mask keeps in proportion to: size times ``sum(dims) / prod(dims)``.

    `shapes` are the weights' own, (C_out, C_in / groups, kH, kW) or (C_out, C_in). Narrow layers stay denser
    than wide ones. Source: Evci et al. 2020, arXiv 1911.11134, section 3, Erdős-Rényi kernel.

    Raises:
        UsageError: when the shapes are missing.
    """
    if shapes is None or len(shapes) != len(sizes):
        raise UsageError(
            "the allocation 'erk' needs the shape of every pruned weight", where="allocation", hint="use 'uniform'"
        )
    return [size * sum(shape) / math.prod(shape) for size, shape in zip(sizes, shapes, strict=True)]


def proportional(weights: Sequence[float], lows: Sequence[int], highs: Sequence[int], total: int) -> list[int]:
    """Return whole numbers in proportion to `weights` within ``lows..highs``, with this total.

    What a bound takes or gives is spread over the others in proportion; what rounding leaves goes to the
    largest remainders, earlier entries first. ``sum(lows) <= total <= sum(highs)``.
    """

    def shares(factor: float) -> list[float]:
        return [min(max(factor * w, low), high) for w, low, high in zip(weights, lows, highs, strict=True)]

    below, above = 0.0, max(high / w for w, high in zip(weights, highs, strict=True))
    while below < (middle := (below + above) / 2) < above:
        below, above = (middle, above) if sum(shares(middle)) <= total else (below, middle)
    ideal = shares(above if sum(shares(above)) <= total else below)
    result = [math.floor(share) for share in ideal]
    order = sorted(range(len(result)), key=lambda index: (result[index] - ideal[index], index))
    while sum(result) < total:
        for index in order:
            if result[index] < highs[index] and sum(result) < total:
                result[index] += 1
    return result
