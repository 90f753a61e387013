"""Layers that work on fewer channels than the tensors around them hold.

Where others need a channel that this layer neither reads nor makes, the tensor keeps it, and the layer can still do
without: a gather in front selects what it reads, a gather behind puts its results in their places, with the constants
of dead filters between them. Whether that pays is a question of cost.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.fx import Node

from pdp_export.graph.facts import Facts
from pdp_export.graph.nodes import CONVOLUTIONS, argument, layer_of, operator
from pdp_export.graph.slots import Ids
from pdp_export.graph.tracing import Trace
from pdp_export.removal.costs import CostModel
from pdp_export.removal.narrow_options import AS_IT_IS, Candidate, Depthwise, Full, Narrowing
from pdp_export.removal.readers import Mask, Reader
from pdp_export.removal.records import LayerChoice


def narrowed(
    trace: Trace, facts: Facts, readers: list[Reader], removed: Mask, roots: Ids, cost: CostModel, align: int
) -> tuple[dict[Node, Narrowing], list[LayerChoice]]:
    """Return the layers that had better be narrower than their tensors, and the costs that say so."""
    found: dict[Node, Narrowing] = {}
    choices: list[LayerChoice] = []
    for layer in _candidates(trace, facts, readers, removed, roots, align):
        options = layer.options()
        if len(options) < 2:  # noqa: PLR2004  (nothing to choose)
            continue
        costs = {name: layer.cost(option, cost) for name, option in options.items()}
        best = min(costs, key=costs.__getitem__)
        if costs[best] >= costs[AS_IT_IS] * (1 - cost.worthwhile):
            best = AS_IT_IS
        choices.append(LayerChoice(layer=layer_of(layer.node), costs=costs, chosen=best))
        if best != AS_IT_IS:
            found[layer.node] = options[best]
    return found, choices


def _candidates(
    trace: Trace, facts: Facts, readers: list[Reader], removed: Mask, roots: Ids, align: int
) -> Iterator[Candidate]:
    """Yield the layers whose weights are theirs alone."""
    for reader in readers:
        if reader.editable and reader.owns_bias:
            yield Full(trace, facts, reader, removed, align)
    for use in trace.uses:
        if is_depthwise(trace, use.node) and use.tensor == str(argument(use.node, "weight").target):
            weight, bias = argument(use.node, "weight"), argument(use.node, "bias")
            if len(weight.users) == 1 and (bias is None or len(bias.users) == 1):
                yield Depthwise(trace, facts, use.node, removed, roots, align)


def is_depthwise(trace: Trace, node: Node) -> bool:
    """Tell whether a layer's channels are those that it reads, each on its own."""
    if operator(node) not in CONVOLUTIONS:
        return False
    return not any(use.node is node and use.role in ("filter", "grouped") for use in trace.uses)
