"""Numbers for a layer that is only timed: weights, the channels of its gathers, and its padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdp_export.removal.costs import LayerWork

Floats = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """What a layer of this size needs to run.

    `weight` is (C_out, C_in / groups, k...), or (C_in, C_out / groups, k...) for a transposed convolution; `selected`
    and `expanded` are the places that its gathers read, None where there is no gather; `padding` is (low, high) for
    each spatial axis.
    """

    weight: Floats
    bias: Floats
    selected: Places | None
    expanded: Places | None
    padding: tuple[tuple[int, int], ...]
    output_padding: tuple[int, ...]


def sample(work: LayerWork) -> Sample:
    """Return a sample whose result has the sizes that the work names; the same each time."""
    random = np.random.default_rng(0)
    pair = (
        (work.columns, work.rows // work.groups)
        if work.kind == "transposed"
        else (work.rows, work.columns // work.groups)
    )
    weight = random.standard_normal((*pair, *work.kernel), dtype=np.float32)
    selected = _places(random, work.available, work.columns) if work.columns < work.available else None
    expanded = None
    if work.rows < work.wanted:  # the last place is the zero that padding adds
        expanded = np.full(work.wanted, work.rows)
        expanded[_places(random, work.wanted, work.rows)] = np.arange(work.rows)
    totals = [_padding(work, axis) for axis in range(len(work.kernel))]
    padding = tuple((max(total, 0) // 2, max(total, 0) - max(total, 0) // 2) for total in totals)
    output = tuple(max(-total, 0) for total in totals)
    return Sample(weight, np.ones(work.rows, np.float32), selected, expanded, padding, output)


def _places(random: np.random.Generator, count: int, chosen: int) -> Places:
    return np.sort(random.choice(count, chosen, replace=False)).astype(np.int64)


def _padding(work: LayerWork, axis: int) -> int:
    """Return how much padding turns the source into the result; negative: what a transposed one lacks at its end."""
    source, result = work.source[1 + axis], work.result[1 + axis]
    if work.kind == "transposed":
        source, result = result, source
    reach = (result - 1) * work.stride[axis] + work.dilation[axis] * (work.kernel[axis] - 1) + 1
    return reach - source
