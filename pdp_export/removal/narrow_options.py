"""The widths that a layer could have: as its tensors are, or only what it needs to read and to make."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from pdp_export.graph.facts import Facts, grids
from pdp_export.graph.nodes import TRANSPOSED_CONVOLUTIONS, argument, aten, operator, shape, tensor_of
from pdp_export.graph.slots import Channels, Ids
from pdp_export.graph.tracing import Trace
from pdp_export.removal.costs import CopyWork, CostModel, LayerWork
from pdp_export.removal.readers import Mask, Reader, Vector

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Narrowing:
    """What a layer computes and reads of what stays behind and in front of it, as positions along the channel axes.

    `fills` are the values of the rows that it does not compute; `keeper` is the column that brings the constants of
    those that it does not read, where a bias cannot.
    """

    rows: Ids
    columns: Ids
    keeper: int | None
    fills: Vector
    all_rows: Ids
    all_columns: Ids


class Candidate(ABC):
    """One layer with the channels that its neighbours keep, and those that it could do without."""

    def __init__(self, facts: Facts, node: Node, rows: Ids, columns: Ids, made: Channels, align: int) -> None:
        self.node, self.rows, self.columns, self.align = node, rows, columns, align
        count = len(made.slots)
        self.live: Mask = facts.live(node, made.axis, count).numpy()
        constants = grids.line(facts.constant(node), made.axis, count).numpy()
        self.fills: Vector = np.where(np.isfinite(constants), constants, 0.0)

    def options(self) -> dict[str, Narrowing]:
        """Return what the layer could be, by name; first as it is."""
        return {AS_IT_IS: self.narrowing(self.rows, self.columns)}

    def narrowing(self, rows: Ids, columns: Ids, keeper: int | None = None) -> Narrowing:
        """Return one option."""
        return Narrowing(rows, columns, keeper, self.fills, self.rows, self.columns)

    def cost(self, option: Narrowing, cost: CostModel) -> float:
        """Return the cost of the layer with the copies that the option needs."""
        work, read, made = self.work(option)
        total = cost.layer(work)
        if len(option.columns) < len(self.columns):
            total += cost.copy(CopyWork(len(option.columns), read))
        if len(option.rows) < len(self.rows):
            total += cost.copy(CopyWork(len(self.rows), made, padded=True))
        return total

    @abstractmethod
    def work(self, option: Narrowing) -> tuple[LayerWork, int, int]:
        """Return the work of the layer itself, and the values of one channel of its input and of its output."""

    def filled(self, chosen: Ids, available: Ids) -> Ids:
        """Add others of `available` until there is one, and a multiple of the alignment."""
        wanted = min(len(available), -(-max(len(chosen), 1) // self.align) * self.align)
        others = np.setdiff1d(available, chosen)
        return np.sort(np.concatenate([chosen, others[: wanted - len(chosen)]]))


class Full(Candidate):
    """A convolution or linear layer of one group."""

    def __init__(self, trace: Trace, facts: Facts, reader: Reader, removed: Mask, align: int) -> None:
        made = trace.channels(reader.use.node)
        if made is None:
            raise TypeError(f"{reader.use.node} makes no channels")
        rows, columns = (np.flatnonzero(~removed[axis]) for axis in (reader.rows, reader.columns))
        super().__init__(facts, reader.use.node, rows, columns, made, align)
        self.reader = reader

    def options(self) -> dict[str, Narrowing]:
        """Fewer rows, columns or both where there are fewer."""
        options = super().options()
        columns, keeper = self._few_columns(self.rows)
        if len(columns) < len(self.columns):
            options["select"] = self.narrowing(self.rows, columns, keeper)
        rows = self.filled(self.rows[self.live[self.rows]], self.rows)
        if len(rows) < len(self.rows):
            options["expand"] = self.narrowing(rows, self.columns)
            columns, keeper = self._few_columns(rows)
            if len(columns) < len(self.columns):
                options["select and expand"] = self.narrowing(rows, columns, keeper)
        return options

    def work(self, option: Narrowing) -> tuple[LayerWork, int, int]:
        """Every row reads every column."""
        source, result = shape(argument(self.node, "input")), shape(self.node)
        if operator(self.node) is aten.linear:
            read, made = math.prod(source[:-1]), math.prod(result[:-1])
        else:
            rows, columns = self.reader.touched.shape
            read, made = math.prod(source) // columns, math.prod(result) // rows
        positions = read if operator(self.node) in TRANSPOSED_CONVOLUTIONS else made
        return LayerWork(len(option.rows), len(option.columns), self.reader.taps, positions), read, made

    def _few_columns(self, rows: Ids) -> tuple[Ids, int | None]:
        """Return the columns that these rows cannot do without, and which of them brings the constants."""
        reader = self.reader
        used: Mask = np.asarray(reader.touched[rows[reader.matters[rows]]].any(0))
        varies = ~np.isfinite(reader.constants)
        wanted = np.zeros(len(used), dtype=bool)
        wanted[self.columns] = True
        constant = ~varies & (reader.constants != 0)
        keep = wanted & used & varies
        keeper = None
        if (constant & used).any() and not reader.foldable:  # of those that go anyway, too
            keeper = int(np.argmax(np.where(constant & wanted, np.abs(reader.constants), 0)))
            keep[keeper] = True
        return self.filled(np.flatnonzero(keep), self.columns), keeper


class Depthwise(Candidate):
    """A depthwise convolution, of one or several results for each input."""

    def __init__(self, trace: Trace, facts: Facts, node: Node, removed: Mask, roots: Ids, align: int) -> None:
        read, made = trace.channels(argument(node, "input")), trace.channels(node)
        if read is None or made is None:
            raise TypeError(f"{node} is no depthwise layer that could be followed")
        rows, columns = (np.flatnonzero(~removed[roots[channels.slots]]) for channels in (made, read))
        super().__init__(facts, node, rows, columns, made, align)
        self.times = len(made.slots) // len(read.slots)
        self.taps = math.prod(tensor_of(trace.module, str(argument(node, "weight").target)).shape[2:])
        self.read = math.prod(shape(argument(node, "input"))) // len(read.slots)
        self.made = math.prod(shape(node)) // len(made.slots)

    def options(self) -> dict[str, Narrowing]:
        """Fewer channels, selected in front and put in their places behind."""
        options = super().options()
        live = np.unique(self.rows[self.live[self.rows]] // self.times)
        columns = self.filled(live, self.columns)
        if len(columns) < len(self.columns):
            rows = (columns[:, None] * self.times + np.arange(self.times)).ravel()
            options["select and expand"] = self.narrowing(rows, columns)
        return options

    def work(self, option: Narrowing) -> tuple[LayerWork, int, int]:
        """Every row reads one column."""
        return LayerWork(len(option.rows), 1, self.taps, self.made), self.read, self.made
