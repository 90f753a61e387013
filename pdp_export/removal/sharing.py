"""Layers whose result others read, each of them other channels of it: one result and selects, or results of their own.

Without a select, either each reader gets a copy of the layer that makes only what it reads ("recompute"), or the layer
is divided into classes of channels by who reads them, and each reader sums over the classes that it reads ("classes":
W x = sum over k of W[:, k] x[k]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import argument, layer_of, operator
from pdp_export.graph.operators import BINARY, IDENTITY, UNARY
from pdp_export.graph.slots import Ids
from pdp_export.graph.tracing import Trace
from pdp_export.removal.costs import Analytic, CostModel, LayerWork
from pdp_export.removal.hoisting import same_shape, stored_per_channel
from pdp_export.removal.narrow_options import Candidate, Full, Narrowing
from pdp_export.removal.records import LayerChoice

SHARED = "shared"

_MOST_READERS = 3
"""Readers up to which classes are tried; each further one may double their number."""

_TOO_DEAR = 2.0
"""A layer is not even timed again for one reader where it is estimated to take this many times what the gather does."""


@dataclass(frozen=True)
class Settled:
    """A layer with its options, and the choice among them."""

    layer: Candidate
    options: Mapping[str, Narrowing]
    choice: LayerChoice

    @property
    def narrowing(self) -> Narrowing:
        """What was chosen."""
        return self.options[self.choice.chosen]

    @property
    def cost(self) -> float:
        """What the choice costs."""
        return self.choice.costs[self.choice.chosen]

    def narrow_options(self) -> list[str]:
        """Return the options that read fewer channels than there are."""
        return [name for name, item in self.options.items() if len(item.columns) < len(item.all_columns)]


@dataclass(frozen=True)
class Sharing:
    """What is done in the place of selects from the result of `stages`, element-wise work behind `producer`.

    `readers` says by layer which option it has, `wanted` what it reads, as positions along `axis` of what stays.
    `classes` are such positions too, disjoint, and empty for "recompute".
    """

    producer: Node
    axis: int
    stages: Sequence[Node]
    readers: Mapping[Node, str]
    wanted: Mapping[Node, Ids]
    classes: Sequence[Ids]

    @property
    def source(self) -> Node:
        """The tensor that is read."""
        return self.stages[-1] if self.stages else self.producer


@dataclass(frozen=True)
class _Place:
    """A tensor with the layer that makes it, and those of its readers that could do with less.

    `private`: nothing else reads it, nor anything on the way to it.
    """

    producer: Settled
    axis: int
    stages: Sequence[Node]
    readers: Sequence[Settled]
    private: bool


def sharings(trace: Trace, settled: Mapping[Node, Settled], cost: CostModel) -> Iterator[tuple[Sharing, LayerChoice]]:
    """Yield what had better have results of its own, and what that was weighed against; no layer is in two of them."""
    taken: set[Node] = set()
    for place in _places(trace, settled):
        nodes = {place.producer.layer.node, *(item.layer.node for item in place.readers)}
        ways = {} if nodes & taken else dict(_ways(place, cost))
        if not ways:
            continue
        costs = {SHARED: _shared(place, cost), **{name: number for name, (number, _) in ways.items()}}
        best = min(ways, key=costs.__getitem__)
        # Where gathers are preferred for what they may save others, nothing may be dearer on that account.
        if costs[best] < costs[SHARED] * (1 - max(cost.worthwhile, 0.0)):
            taken |= nodes
            name = f"{layer_of(place.producer.layer.node)} (result)"
            yield ways[best][1], LayerChoice(layer=name, costs=costs, chosen=best)


def _places(trace: Trace, settled: Mapping[Node, Settled]) -> Iterator[_Place]:
    reading: dict[Node, list[Settled]] = {}
    for item in settled.values():
        if isinstance(item.layer, Full) and item.narrow_options():
            reading.setdefault(argument(item.layer.node, "input"), []).append(item)
    for source, readers in reading.items():
        nodes = {item.layer.node for item in readers}
        read = trace.channels(source)
        if read is None:
            continue
        stages, producer = _way_up(trace.module, source, read.axis)
        made = settled.get(producer)
        if made is None or not isinstance(made.layer, Full) or producer in nodes:
            continue
        if len(made.narrowing.rows) < len(made.narrowing.all_rows):
            continue
        private = set(source.users) == nodes and all(len(node.users) == 1 for node in (producer, *stages)[:-1])
        yield _Place(made, read.axis, stages, readers, private)


def _way_up(module: GraphModule, source: Node, axis: int) -> tuple[list[Node], Node]:
    """Return the element-wise work that ends in `source`, first things first, and the node before it."""
    stages: list[Node] = []
    while source.op == "call_function" and operator(source) in UNARY | IDENTITY | BINARY:
        if stored_per_channel(module, source, axis) is None or not same_shape(source.args[0], source):
            break
        stages.insert(0, source)
        source = cast(Node, source.args[0])
    return stages, source


def _shared(place: _Place, cost: CostModel) -> float:
    """Return what the readers cost as they are, with the layer itself where it could go."""
    own = cost.costs([place.producer.layer.work(place.producer.narrowing)])[0] if place.private else 0.0
    return own + sum(item.cost for item in place.readers)


def _ways(place: _Place, cost: CostModel) -> Iterator[tuple[str, tuple[float, Sharing]]]:
    if not _worth_a_try(place):
        return
    number, chosen = 0.0, {}
    for item in place.readers:
        prices = {name: _recomputed(place, item, name, cost) for name in item.narrow_options()}
        chosen[item.layer.node] = min(prices, key=prices.__getitem__)
        number += prices[chosen[item.layer.node]]
    yield "recompute", (number, _sharing(place, chosen, classes=False))
    if not place.private or not 1 < len(place.readers) <= _MOST_READERS:
        return
    found = []
    for pick in (_narrowest, _widest):
        sharing = _sharing(place, {item.layer.node: pick(item) for item in place.readers}, classes=True)
        found.append((_divided(place, sharing, cost), sharing))
    yield "classes", min(found, key=lambda pair: pair[0])


def _worth_a_try(place: _Place) -> bool:
    """Tell whether a copy of the layer could cost less than gathers, by a rough estimate."""
    if place.private:
        return True  # the layer itself goes then
    estimate = Analytic()
    for item in place.readers:
        name = _narrowest(item)
        work = item.layer.work(item.options[name])
        saved = estimate.costs([work])[0] - estimate.costs([replace(work, available=work.columns)])[0]
        (again,) = estimate.costs([_producer_work(place, work.columns)])
        if again > _TOO_DEAR * saved:
            return False
    return True


def _recomputed(place: _Place, item: Settled, option: str, cost: CostModel) -> float:
    """Return what a reader costs with a copy of the layer that makes what it reads."""
    work = item.layer.work(item.options[option])
    alone = replace(work, available=work.columns)
    return sum(cost.costs([one])[0] for one in (_producer_work(place, work.columns), alone))


def _divided(place: _Place, sharing: Sharing, cost: CostModel) -> float:
    """Return what the classes and the readers that sum over them cost."""
    works = [_producer_work(place, len(part)) for part in sharing.classes]
    for item in place.readers:
        work = item.layer.work(item.options[sharing.readers[item.layer.node]])
        wanted = sharing.wanted[item.layer.node]
        parts = tuple(len(part) for part in sharing.classes if np.isin(part, wanted).all())
        works.append(replace(work, available=work.columns, before=(), parts=parts))
    return sum(cost.costs([work])[0] for work in works)


def _producer_work(place: _Place, rows: int) -> LayerWork:
    work = place.producer.layer.work(place.producer.narrowing)
    return replace(work, rows=rows, wanted=rows)


def _sharing(place: _Place, chosen: Mapping[Node, str], *, classes: bool) -> Sharing:
    wanted = {}
    for item in place.readers:
        option = item.options[chosen[item.layer.node]]
        wanted[item.layer.node] = np.searchsorted(option.all_columns, option.columns)
    parts = _classes(list(wanted.values())) if classes else ()
    return Sharing(place.producer.layer.node, place.axis, place.stages, chosen, wanted, parts)


def _classes(sets: Sequence[Ids]) -> list[Ids]:
    """Divide what any of the sets holds by which of them hold it."""
    union = np.unique(np.concatenate(sets))
    members = np.stack([np.isin(union, one) for one in sets], axis=1)
    return [union[(members == row).all(1)] for row in np.unique(members, axis=0)]


def _narrowest(item: Settled) -> str:
    return _by_width(item, min)


def _widest(item: Settled) -> str:
    return _by_width(item, max)


def _by_width(item: Settled, best: Callable[..., str]) -> str:
    """Return an option that makes as many rows as the chosen one, if there is one, by how much it reads."""
    options = item.narrow_options()
    same = [name for name in options if len(item.options[name].rows) == len(item.narrowing.rows)]
    return best(same or options, key=lambda name: len(item.options[name].columns))
