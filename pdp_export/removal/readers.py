"""The layers that read channels, and what becomes of the constants that they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.channel_constants import channel_constants
from pdp_export.graph.facts import Facts, grids
from pdp_export.graph.nodes import TRANSPOSED_CONVOLUTIONS, argument, is_padded, operator, tensor_of
from pdp_export.graph.slots import Ids, Use
from pdp_export.graph.tracing import Trace

Mask = NDArray[np.bool_]
Vector = NDArray[np.float64]

_WEAK = 0.01
"""A constant this much smaller than those that it takes over would cost digits."""


@dataclass(frozen=True)
class Merge:
    """Column `into` of a reader takes over what the constant columns `columns` contribute."""

    reader: Reader
    into: int
    columns: Mask


@dataclass(frozen=True)
class Reader:
    """A weight that reads channels.

    `columns` and `rows` are representatives of the slots along its input and output axis, `touched`
    (rows x columns) says where any weight is not zero, or what it multiplies not finite, `matters`
    which rows are needed, or constants that others count on (`steady`, also where they stay only to
    fill a width), `constants` what each column reads (NaN: it depends on the input). `editable`: the
    weight is this layer's own and of one group; `foldable`: a constant can also move exactly into the
    bias, which is its own (`owns_bias`). `taps`: how many weights join a row and a column.
    """

    use: Use
    columns: Ids
    rows: Ids
    touched: Mask
    matters: Mask
    steady: Mask
    constants: Vector
    foldable: bool
    editable: bool
    owns_bias: bool
    taps: int

    def debts(self, blocked: Mask) -> Mask:
        """Return the columns that may go while a row that stays counts on their constant, which is not zero."""
        known = np.isfinite(self.constants) & (self.constants != 0) & ~blocked[self.columns]
        rows = self.matters & (blocked[self.rows] | self.steady)
        return cast(Mask, self.touched[rows].any(0) & known)

    def owing(self, blocked: Mask) -> Mask:
        """Return the columns that have to stay for the sake of `debts`: none, all, or one for all."""
        debts = self.debts(blocked)
        if self.foldable or not debts.any():
            return np.zeros_like(debts)
        if not self.editable:
            return debts
        if self._keeper(debts, blocked) is not None:
            return np.zeros_like(debts)
        chosen = np.zeros_like(debts)
        chosen[np.argmax(np.where(debts, np.abs(self.constants), 0))] = True
        return chosen

    def merge(self, blocked: Mask) -> Merge | None:
        """Return which column takes over the constants of those that go; None where none has to."""
        if self.foldable or not self.editable:
            return None
        columns = self.debts(blocked)
        into = self._keeper(columns, blocked) if columns.any() else None
        return None if into is None else Merge(self, into, columns)

    def _keeper(self, debts: Mask, blocked: Mask) -> int | None:
        """Return the strongest constant among the columns that stay, if it is strong enough."""
        strength = np.where(np.isfinite(self.constants) & blocked[self.columns], np.abs(self.constants), 0)
        best = int(np.argmax(strength))
        return best if strength[best] > _WEAK * np.abs(self.constants[debts]).max() else None


def lines(module: GraphModule, use: Use) -> Tensor:
    """Return the weight of a reading as (rows, columns, taps); zero between different groups."""
    weight = tensor_of(module, use.tensor).detach()
    weight = weight if use.axis == 1 else weight.transpose(0, 1)
    flat = weight.reshape(*weight.shape[:2], -1)
    if use.role != "grouped":
        return flat
    groups = argument(use.node, "groups")
    parts = flat.reshape(groups, -1, *flat.shape[1:])  # (groups, C_out / groups, C_in / groups, taps)
    blocks = torch.zeros(groups, parts.shape[1], groups, *parts.shape[2:], dtype=flat.dtype)
    index = torch.arange(groups)
    blocks[index, :, index] = parts
    return blocks.reshape(len(flat), -1, flat.shape[2])


def readers_of(trace: Trace, facts: Facts, roots: Ids) -> list[Reader]:
    """Return every reading of channels by a weight."""
    return [_reader(trace, facts, use, roots) for use in trace.uses if use.role in ("consumer", "grouped")]


def _reader(trace: Trace, facts: Facts, use: Use, roots: Ids) -> Reader:
    weight = lines(trace.module, use)
    made = next(item for item in trace.uses if item.node is use.node and item.role == "filter")
    bias = argument(use.node, "bias")
    needed, steady = _rows(trace, facts, use.node)
    own = len(argument(use.node, "weight").users) == 1
    owns_bias = bias is None or len(bias.users) == 1
    closed = is_padded(use.node) or operator(use.node) in TRANSPOSED_CONVOLUTIONS
    constants = cast(Vector, channel_constants(trace, facts, argument(use.node, "input"), len(use.slots)).numpy())
    return Reader(
        use,
        roots[use.slots],
        roots[made.slots],
        (weight != 0).any(2).numpy() | np.isinf(constants),
        needed | steady,
        steady,
        constants,
        foldable=own and not closed and owns_bias,
        editable=own and use.role != "grouped",
        owns_bias=owns_bias,
        taps=weight.shape[2],
    )


def _rows(trace: Trace, facts: Facts, node: Node) -> tuple[Mask, Mask]:
    """Return which rows anything needs, and which are constant."""
    made = trace.channels(node)
    if made is None:
        raise TypeError(f"{node} makes no channels")
    count = len(made.slots)
    steady = grids.line(facts.constant(node), made.axis, count).isfinite()
    return grids.line(facts.need(node), made.axis, count).numpy(), steady.numpy()
