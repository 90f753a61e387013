"""Layers that work on fewer channels than the tensors around them hold.

Where others need a channel that this layer neither reads nor makes, the tensor keeps it, and the layer can still do
without: a gather in front selects what it reads, a gather behind puts its results in their places, with the constants
of dead filters between them. Whether that pays is a question of cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from pdp_export.graph.facts import Facts, grids
from pdp_export.graph.nodes import TRANSPOSED_CONVOLUTIONS, argument, aten, layer_of, operator, shape
from pdp_export.graph.slots import Ids
from pdp_export.graph.tracing import Trace
from pdp_export.removal.costs import CopyWork, CostModel, LayerWork
from pdp_export.removal.readers import Mask, Reader, Vector
from pdp_export.removal.records import LayerChoice


@dataclass(frozen=True)
class Narrowing:
    """What a layer computes and reads, as positions along the axes of its weight.

    `fills` are the values of the rows that it does not compute; `keeper` is the column that brings the constants of
    those that it does not read, where a bias cannot.
    """

    rows: Ids
    columns: Ids
    keeper: int | None
    fills: Vector


def narrowed(
    trace: Trace, facts: Facts, readers: list[Reader], removed: Mask, cost: CostModel, align: int
) -> tuple[dict[Node, Narrowing], list[LayerChoice]]:
    """Return the layers that had better be narrower than their tensors, and the costs that say so."""
    found: dict[Node, Narrowing] = {}
    choices: list[LayerChoice] = []
    for reader in readers:
        if not reader.editable or not reader.owns_bias:
            continue  # another layer has the same weights
        layer = _Layer(trace, facts, reader, removed, align)
        options = layer.options()
        if len(options) < 2:  # noqa: PLR2004  (nothing to choose)
            continue
        costs = {name: layer.cost(option, cost) for name, option in options.items()}
        best = min(costs, key=costs.__getitem__)
        if costs[best] >= costs["as it is"] * (1 - cost.worthwhile):
            best = "as it is"
        choices.append(LayerChoice(layer=layer_of(reader.use.node), costs=costs, chosen=best))
        if best != "as it is":
            found[reader.use.node] = options[best]
    return found, choices


class _Layer:
    """One layer with the channels that its neighbours keep, and those that it could do without."""

    def __init__(self, trace: Trace, facts: Facts, reader: Reader, removed: Mask, align: int) -> None:
        self.reader, self.node, self.align = reader, reader.use.node, align
        made = trace.channels(self.node)
        if made is None:
            raise TypeError(f"{self.node} makes no channels")
        count = len(made.slots)
        self.rows = np.flatnonzero(~removed[reader.rows])
        self.columns = np.flatnonzero(~removed[reader.columns])
        live = facts.live(self.node, made.axis, count).numpy()
        constants = grids.line(facts.constant(self.node), made.axis, count).numpy()
        self.fills: Vector = np.where(np.isfinite(constants), constants, 0.0)
        self.few_rows = self._filled(self.rows[live[self.rows]], self.rows)

    def options(self) -> dict[str, Narrowing]:
        """Return the layer as it is, and with fewer rows, columns or both where there are fewer."""
        whole = Narrowing(self.rows, self.columns, None, self.fills)
        options = {"as it is": whole}
        columns, keeper = self._few_columns(self.rows)
        if len(columns) < len(self.columns):
            options["select"] = Narrowing(self.rows, columns, keeper, self.fills)
        if len(self.few_rows) < len(self.rows):
            options["expand"] = Narrowing(self.few_rows, self.columns, None, self.fills)
            columns, keeper = self._few_columns(self.few_rows)
            if len(columns) < len(self.columns):
                options["select and expand"] = Narrowing(self.few_rows, columns, keeper, self.fills)
        return options

    def cost(self, option: Narrowing, cost: CostModel) -> float:
        """Return the cost of the layer with the copies that the option needs."""
        taps, read, made = self._sizes()
        positions = read if operator(self.node) in TRANSPOSED_CONVOLUTIONS else made
        total = cost.layer(LayerWork(len(option.rows), len(option.columns), taps, positions))
        if len(option.columns) < len(self.columns):
            total += cost.copy(CopyWork(len(option.columns), read))
        if len(option.rows) < len(self.rows):
            total += cost.copy(CopyWork(len(self.rows), made, padded=True))
        return total

    def _sizes(self) -> tuple[int, int, int]:
        """Return taps, and the values of one channel of the input and of the output."""
        source, made = shape(argument(self.node, "input")), shape(self.node)
        if operator(self.node) is aten.linear:
            return 1, math.prod(source[:-1]), math.prod(made[:-1])
        rows, columns = self.reader.touched.shape
        return self.reader.taps, math.prod(source) // columns, math.prod(made) // rows

    def _few_columns(self, rows: Ids) -> tuple[Ids, int | None]:
        """Return the columns that these rows cannot do without, and which of them brings the constants."""
        reader = self.reader
        used: Mask = np.asarray(reader.touched[rows[reader.matters[rows]]].any(0))
        varies = ~np.isfinite(reader.constants)
        wanted = np.zeros(len(used), dtype=bool)
        wanted[self.columns] = True
        constant = wanted & used & ~varies & (reader.constants != 0)
        keep = wanted & used & varies
        keeper = None
        if constant.any() and not reader.foldable:
            keeper = int(np.argmax(np.where(constant, np.abs(reader.constants), 0)))
            keep[keeper] = True
        return self._filled(np.flatnonzero(keep), self.columns), keeper

    def _filled(self, chosen: Ids, available: Ids) -> Ids:
        """Add others of `available` until there is one, and a multiple of the alignment."""
        wanted = min(len(available), -(-max(len(chosen), 1) // self.align) * self.align)
        others = np.setdiff1d(available, chosen)
        return np.sort(np.concatenate([chosen, others[: wanted - len(chosen)]]))
