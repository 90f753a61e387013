"""Layers that work on fewer channels than the tensors around them hold.

Where others need a channel that this layer neither reads nor makes, the tensor keeps it, and the layer can still do
without: a gather in front selects what it reads, a gather behind puts its results in their places, with the constants
of dead filters between them. Whether that pays is a question of cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch.fx import Node

from pdp_export.graph.facts import Facts
from pdp_export.graph.nodes import CONVOLUTIONS, argument, layer_of, operator
from pdp_export.graph.slots import Ids
from pdp_export.graph.tracing import Trace
from pdp_export.removal.costs import CostModel
from pdp_export.removal.narrow_options import AS_IT_IS, Candidate, Depthwise, Full, Narrowing
from pdp_export.removal.readers import Mask, Reader
from pdp_export.removal.records import LayerChoice
from pdp_export.removal.sharing import SHARED, Settled, Sharing, sharings


@dataclass(frozen=True)
class Narrowings:
    """The layers that had better be narrower than their tensors, the costs that say so, and what all layers cost.

    `sharings` are those that get the channels they read by other means than a select.
    """

    found: Mapping[Node, Narrowing]
    sharings: Sequence[Sharing]
    choices: Sequence[LayerChoice]
    total: float


def narrowed(
    trace: Trace, facts: Facts, readers: list[Reader], removed: Mask, roots: Ids, cost: CostModel, *, count_all: bool
) -> Narrowings:
    """Choose for each layer; those without a choice are costed too where `count_all`, for the total."""
    settled = {
        layer.node: _settled(layer, cost, count_all=count_all)
        for layer in _candidates(trace, facts, readers, removed, roots)
    }
    total = sum(item.cost for item in settled.values())
    shared = list(sharings(trace, settled, cost))
    for sharing, choice in shared:
        total += choice.costs[choice.chosen] - choice.costs[SHARED]
        for node, option in sharing.readers.items():
            item = settled[node]
            settled[node] = replace(item, choice=item.choice.model_copy(update={"chosen": option}))
    choices = [item.choice for item in settled.values() if len(item.options) > 1]
    found = {node: item.narrowing for node, item in settled.items() if item.choice.chosen != AS_IT_IS}
    return Narrowings(found, [one for one, _ in shared], [*choices, *(choice for _, choice in shared)], total)


def _settled(layer: Candidate, cost: CostModel, *, count_all: bool) -> Settled:
    options = layer.options(cost.fills)
    if len(options) > 1 or count_all:
        return Settled(layer, options, _cheapest(layer, options, cost))
    return Settled(layer, options, LayerChoice(layer=layer_of(layer.node), costs={AS_IT_IS: 0.0}, chosen=AS_IT_IS))


def _cheapest(layer: Candidate, options: Mapping[str, Narrowing], cost: CostModel) -> LayerChoice:
    """Return the cheapest option; a layer stays as it is for a gain that is not worthwhile."""
    numbers = cost.costs([layer.work(option) for option in options.values()])
    costs = dict(zip(options, numbers, strict=True))
    best = min((name for name in costs if name != AS_IT_IS), key=costs.__getitem__, default=AS_IT_IS)
    if costs[best] >= costs[AS_IT_IS] * (1 - cost.worthwhile):
        best = AS_IT_IS
    return LayerChoice(layer=layer_of(layer.node), costs=costs, chosen=best)


def _candidates(trace: Trace, facts: Facts, readers: list[Reader], removed: Mask, roots: Ids) -> Iterator[Candidate]:
    """Yield the layers whose weights are theirs alone."""
    for reader in readers:
        if reader.editable and reader.owns_bias:
            yield Full(trace, facts, reader, removed)
    for use in trace.uses:
        if is_depthwise(trace, use.node) and use.tensor == str(argument(use.node, "weight").target):
            weight, bias = argument(use.node, "weight"), argument(use.node, "bias")
            if len(weight.users) == 1 and (bias is None or len(bias.users) == 1):
                yield Depthwise(trace, facts, use.node, removed, roots)


def is_depthwise(trace: Trace, node: Node) -> bool:
    """Tell whether a layer's channels are those that it reads, each on its own."""
    if operator(node) not in CONVOLUTIONS or trace.channels(argument(node, "input")) is None:
        return False
    return not any(use.node is node and use.role in ("filter", "grouped") for use in trace.uses)
