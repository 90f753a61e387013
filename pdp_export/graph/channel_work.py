"""The work of a program as a function of how many channels each group keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.nn import Parameter

from pdp_export.graph.channel_trace import trace
from pdp_export.graph.counting import node_macs
from pdp_export.graph.nodes import (
    LAYERS,
    argument,
    operator,
    tensor_of,
    used_tensors,
)
from pdp_export.graph.slots import Ids, Ties, Use
from pdp_export.graph.tracing import Trace

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Axes:
    """How many entries live along one axis of each of several weights.

    Weight t has ``fixed[t] + sum_g each[t, g] * kept[g]`` living entries, where group g keeps ``kept[g]``
    channels. Shapes: `fixed` (weights,), `each` (weights, groups).
    """

    fixed: Numbers
    each: Numbers

    def living(self, kept: Counts) -> Numbers:
        """Return the living entries of each weight, shape (weights,)."""
        result: Numbers = self.fixed + self.each @ kept
        return result


@dataclass(frozen=True)
class ChannelWork:
    """``constant + sum_t unit[t] * rows[t] * columns[t]``: a layer works rows times columns, both of which shrink.

    Where a layer reads only some channels of a group, or the branches of a join may disagree, the entries
    count as living: the real work is never more than this.
    """

    constant: float
    unit: Numbers
    rows: Axes
    columns: Axes

    def of(self, kept: Sequence[int] | Counts) -> float:
        """Return the work where group g keeps ``kept[g]`` channels."""
        widths = np.asarray(kept)
        return float(self.constant + self.unit @ (self.rows.living(widths) * self.columns.living(widths)))

    def saved(self, kept: Counts, block: Counts) -> Numbers:
        """Return what each group would save now if it alone lost ``block[g]`` more channels, shape (groups,)."""
        rows, columns = self.rows.living(kept)[:, None], self.columns.living(kept)[:, None]
        fewer_rows, fewer_columns = self.rows.each * block, self.columns.each * block
        result: Numbers = self.unit @ (fewer_rows * columns + rows * fewer_columns - fewer_rows * fewer_columns)
        return result


def channel_macs(program: ExportedProgram, groups: Sequence[str], ties: Ties = "stream") -> ChannelWork:
    """Return the multiply-accumulates for one example, of all layers together.

    Args:
        program: The captured program.
        groups: The name of each group that may lose channels: its first filter, as `channel_groups` names it.
        ties: The same as for `channel_groups`.
    """
    builder = _Builder(trace(program.module(check_guards=False), ties), groups)
    for node, macs in node_macs(builder.traced.module).items():
        weight = argument(node, "weight") if operator(node) in LAYERS else None
        if weight is None or weight.op != "get_attr":
            builder.constant += macs
        else:
            uses = [use for use in builder.traced.uses if use.node is node and use.tensor == str(weight.target)]
            builder.add(str(weight.target), float(macs), uses)
    return builder.work()


def channel_parameters(
    program: ExportedProgram,
    groups: Sequence[str],
    ties: Ties = "stream",
    costs: Mapping[str, float] | None = None,
) -> ChannelWork:
    """Return the number of parameters, each counted once; arguments as for `channel_macs`.

    With `costs` each counts as much as its parameter's entry, by name; parameters without one count nothing.
    """
    builder = _Builder(trace(program.module(check_guards=False), ties), groups)
    for name in used_tensors(builder.traced.module):
        tensor = tensor_of(builder.traced.module, name)
        if isinstance(tensor, Parameter):
            cost = 1.0 if costs is None else costs.get(name, 0.0)
            builder.add(name, cost * tensor.numel(), [use for use in builder.traced.uses if use.tensor == name])
    return builder.work()


class _Builder:
    """Collects weights with the groups that their rows and columns belong to."""

    def __init__(self, traced: Trace, groups: Sequence[str]) -> None:
        self.traced, self.constant = traced, 0.0
        self._group = np.full(len(traced.slots), -1)
        self._channel = np.zeros(len(traced.slots), dtype=np.int64)
        self._widths: list[int] = []
        for number, name in enumerate(groups):
            made = next(use.slots for use in traced.uses if use.tensor == name and use.role == "filter")
            roots = traced.slots.roots(made)
            self._group[roots], self._channel[roots] = number, np.arange(len(roots))
            self._widths.append(len(roots))
        self._units: list[float] = []
        self._axes: tuple[list[Numbers], list[Numbers]] = ([], [])

    def add(self, tensor: str, amount: float, uses: Sequence[Use]) -> None:
        """Add a weight that counts `amount` while all of it lives."""
        shape = [*tensor_of(self.traced.module, tensor).shape, 1, 1][:2]
        whole = [use for use in uses if use.role != "grouped"]  # of groups, which stay equal, none is sure to shrink
        lines = [self._axis([use.slots for use in whole if use.axis == axis], size) for axis, size in enumerate(shape)]
        if amount and not any(line[:-1].any() for line in lines):
            self.constant += amount
        elif amount:
            self._units.append(amount / math.prod(shape))
            for axis, line in zip(self._axes, lines, strict=True):
                axis.append(line)

    def work(self) -> ChannelWork:
        rows, columns = (np.reshape(axis, (-1, len(self._widths) + 1)) for axis in self._axes)
        return ChannelWork(
            self.constant, np.array(self._units), Axes(rows[:, -1], rows[:, :-1]), Axes(columns[:, -1], columns[:, :-1])
        )

    def _axis(self, readings: Sequence[Ids], size: int) -> Numbers:
        """Return how many entries each group's channel brings, and last how many are fixed, shape (groups + 1,)."""
        lines = [self._line(slots) for slots in readings]
        if lines and all(np.array_equal(line, lines[0]) for line in lines):
            return lines[0]
        return np.array([0.0] * len(self._widths) + [size])

    def _line(self, slots: Ids) -> Numbers:
        roots = self.traced.slots.roots(slots)
        each = np.zeros(len(self._widths))
        for number in np.unique(self._group[roots[self._group[roots] >= 0]]):
            channels = self._channel[roots[self._group[roots] == number]]
            each[number] = np.bincount(channels, minlength=self._widths[number]).min()
        return np.append(each, len(slots) - each @ self._widths)
