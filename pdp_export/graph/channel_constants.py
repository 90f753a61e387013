"""The constants of a tensor along the channels that a trace follows in it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from pdp_export.graph.facts import Facts, grids
from pdp_export.graph.tracing import Trace


def channel_constants(trace: Trace, facts: Facts, source: Node, count: int) -> Tensor:
    """Return `count` constants, NaN for all where the channels of `source` were not followed."""
    channels = trace.channels(source)
    if channels is None or len(channels.slots) != count:
        return torch.full((count,), torch.nan, dtype=torch.float64)
    return grids.line(facts.constant(source), channels.axis, count)
