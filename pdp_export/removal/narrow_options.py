"""The widths that a layer could have: as its tensors are, or only what it needs to read and to make."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from pdp_export.graph.facts import Facts, grids
from pdp_export.graph.nodes import TRANSPOSED_CONVOLUTIONS, argument, aten, operator, shape, tensor_of
from pdp_export.graph.slots import Channels, Ids
from pdp_export.graph.tracing import Trace
from pdp_export.removal.costs import Kind, LayerWork
from pdp_export.removal.hoisting import crossed
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

    def __init__(self, trace: Trace, facts: Facts, node: Node, rows: Ids, columns: Ids, made: Channels) -> None:
        self.node, self.rows, self.columns = node, rows, columns
        count = len(made.slots)
        self.live: Mask = facts.live(node, made.axis, count).numpy()
        constants = grids.line(facts.constant(node), made.axis, count).numpy()
        self.fills: Vector = np.where(np.isfinite(constants), constants, 0.0)
        self.kernel = tuple(tensor_of(trace.module, str(argument(node, "weight").target)).shape[2:])
        read = trace.channels(argument(node, "input"))
        self.before = () if read is None else crossed(trace.module, node, read.axis)

    def options(self, fills: tuple[int, ...]) -> dict[str, Narrowing]:
        """Return what the layer could be, by name: first as it is, then narrower, filled to each of these multiples."""
        options = {AS_IT_IS: self.narrowing(self.rows, self.columns)}
        seen = {(len(self.rows), len(self.columns))}
        for multiple in fills:
            for name, option in self.narrower(multiple):
                widths = (len(option.rows), len(option.columns))
                if widths not in seen:
                    seen.add(widths)
                    options[name if multiple == 1 else f"{name}, widths of {multiple}"] = option
        return options

    def narrowing(self, rows: Ids, columns: Ids, keeper: int | None = None) -> Narrowing:
        """Return one option."""
        return Narrowing(rows, columns, keeper, self.fills, self.rows, self.columns)

    @abstractmethod
    def narrower(self, multiple: int) -> Iterator[tuple[str, Narrowing]]:
        """Yield what the layer could be with fewer rows or columns."""

    def work(self, option: Narrowing) -> LayerWork:
        """Return what the layer and its gathers have to do."""
        source, result = shape(argument(self.node, "input")), shape(self.node)
        widths = (len(option.rows), len(option.columns), len(self.columns), len(self.rows))
        if operator(self.node) is aten.linear:
            places = (math.prod(source[:-1]),)
            return LayerWork("linear", *widths, places, places, before=self.before)
        kind: Kind = "transposed" if operator(self.node) in TRANSPOSED_CONVOLUTIONS else "convolution"
        sizes = (self._places(source), self._places(result))
        steps = (self._each("stride"), self._each("dilation"))
        return LayerWork(kind, *widths, *sizes, self.kernel, *steps, self.groups(option), self.before)

    def groups(self, option: Narrowing) -> int:
        """Return the number of groups that an option has."""
        del option
        return 1

    def _places(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        spatial = sizes[len(sizes) - len(self.kernel) :]
        return (math.prod(sizes[: len(sizes) - len(self.kernel) - 1]), *spatial)

    def _each(self, name: str) -> tuple[int, ...]:
        values = argument(self.node, name)
        values = [values] if isinstance(values, int) else list(values)
        return tuple(values * len(self.kernel) if len(values) == 1 else values)


def _filled(chosen: Ids, available: Ids, multiple: int) -> Ids:
    """Add others of `available` until there is one, and a multiple of `multiple`."""
    wanted = min(len(available), -(-max(len(chosen), 1) // multiple) * multiple)
    others = np.setdiff1d(available, chosen)
    return np.sort(np.concatenate([chosen, others[: wanted - len(chosen)]]))


class Full(Candidate):
    """A convolution or linear layer of one group."""

    def __init__(self, trace: Trace, facts: Facts, reader: Reader, removed: Mask) -> None:
        made = trace.channels(reader.use.node)
        if made is None:
            raise TypeError(f"{reader.use.node} makes no channels")
        rows, columns = (np.flatnonzero(~removed[axis]) for axis in (reader.rows, reader.columns))
        super().__init__(trace, facts, reader.use.node, rows, columns, made)
        self.reader = reader

    def narrower(self, multiple: int) -> Iterator[tuple[str, Narrowing]]:
        """Yield fewer columns, rows, and both."""
        columns, keeper = self._few_columns(self.rows, multiple)
        if len(columns) < len(self.columns):
            yield "select", self.narrowing(self.rows, columns, keeper)
        rows = _filled(self.rows[self.live[self.rows]], self.rows, multiple)
        if len(rows) == len(self.rows):
            return
        yield "expand", self.narrowing(rows, self.columns)
        columns, keeper = self._few_columns(rows, multiple)
        if len(columns) < len(self.columns):
            yield "select and expand", self.narrowing(rows, columns, keeper)

    def _few_columns(self, rows: Ids, multiple: int) -> tuple[Ids, int | None]:
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
        return _filled(np.flatnonzero(keep), self.columns, multiple), keeper


class Depthwise(Candidate):
    """A depthwise convolution, of one or several results for each input."""

    def __init__(self, trace: Trace, facts: Facts, node: Node, removed: Mask, roots: Ids) -> None:
        read, made = trace.channels(argument(node, "input")), trace.channels(node)
        if read is None or made is None:
            raise TypeError(f"{node} is no depthwise layer that could be followed")
        rows, columns = (np.flatnonzero(~removed[roots[channels.slots]]) for channels in (made, read))
        super().__init__(trace, facts, node, rows, columns, made)
        self.times = len(made.slots) // len(read.slots)

    def narrower(self, multiple: int) -> Iterator[tuple[str, Narrowing]]:
        """Yield fewer channels, selected in front and put in their places behind."""
        live = np.unique(self.rows[self.live[self.rows]] // self.times)
        columns = _filled(live, self.columns, multiple)
        if len(columns) < len(self.columns):
            rows = (columns[:, None] * self.times + np.arange(self.times)).ravel()
            yield "select and expand", self.narrowing(rows, columns)

    def groups(self, option: Narrowing) -> int:
        """Every input is its own group."""
        return len(option.columns)
