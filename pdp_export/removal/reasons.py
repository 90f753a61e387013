"""Why a dead filter's channel stays: which other layer brings it to life."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch.fx import Node

from pdp_export.graph.channel_constants import channel_constants
from pdp_export.graph.facts import Facts
from pdp_export.graph.nodes import layer_of
from pdp_export.graph.slots import Ids
from pdp_export.graph.tracing import Trace
from pdp_export.removal.readers import Vector

VARIES = "it is not one constant everywhere"
_NAMED = 2


Holders = Mapping[int, Sequence[Node]]
"""The tensors that hold a channel, by its slot, in the order of the program."""


def holders(trace: Trace, roots: Ids) -> Holders:
    """Return the tensors that hold each channel along one axis."""
    found: dict[int, list[Node]] = {}
    for node in trace.flows:
        channels = trace.channels(node)
        for root in np.unique(roots[channels.slots]).tolist() if channels is not None else ():
            found.setdefault(root, []).append(node)
    return found


def what_varies(trace: Trace, facts: Facts, roots: Ids, root: int, held: Holders) -> str:
    """Return a sentence that names where a channel begins to depend on the input; `VARIES` where nothing is found."""
    nodes = held.get(root, ())
    alive = {node: found for node in nodes if len(found := _varying(trace, facts, roots, root, node))}
    infinite = [node for node, found in alive.items() if np.isinf(found).any()]
    if infinite:
        return f"it is infinite behind {layer_of(infinite[0])}, which no zero absorbs"
    born = [node for node in alive if not any(source in alive for source in node.all_input_nodes)]
    if not born:
        return VARIES
    names = list(dict.fromkeys(layer_of(node) for node in born))
    told = " and ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    makers = {use.node for use in trace.uses if use.role == "filter"}
    if not makers.intersection(born):
        return f"it is another number at the border behind {told}"
    return f"{told} {'computes' if len(names) == 1 else 'compute'} it"


def _varying(trace: Trace, facts: Facts, roots: Ids, root: int, node: Node) -> Vector:
    """Return what is not a finite constant among the entries of `node` that this channel is."""
    channels = trace.channels(node)
    if channels is None:
        return np.zeros(0)
    numbers: Vector = channel_constants(trace, facts, node, len(channels.slots)).numpy()
    numbers = numbers[roots[channels.slots] == root]
    return numbers[~np.isfinite(numbers)]
