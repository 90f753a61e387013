"""Decides which channels may go: those whose every reading contributes exactly nothing, or one constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from pdp_export.graph.constants import Constants, Vector
from pdp_export.graph.nodes import TRANSPOSED_CONVOLUTIONS, argument, is_padded, layer_of, operator, tensor_of
from pdp_export.graph.slots import Ids, Use
from pdp_export.graph.tracing import Trace

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reader:
    """A weight that reads channels.

    `columns` and `rows` are representatives of the slots along its input and output axis, `touched`
    (rows x columns) says where any weight is not zero, `constants` what each column reads (NaN: it
    depends on the input), `foldable` whether a constant can move exactly into the bias.
    """

    use: Use
    columns: Ids
    rows: Ids
    touched: Mask
    constants: Vector
    foldable: bool

    def harmful(self, dead: Mask) -> Mask:
        """Return the columns whose contribution to a living row is neither zero nor foldable."""
        silent = (self.constants == 0) | (np.isfinite(self.constants) & self.foldable)
        return cast(Mask, self.touched[~dead[self.rows]].any(0) & ~silent)


@dataclass(frozen=True)
class Plan:
    """What goes. All arrays are indexed by slot; only representatives count.

    `removed` is what goes; `fillers` could go and stay to fill a width (or as the last channel);
    `blocked` says why a slot stays.
    """

    trace: Trace
    roots: Ids
    removed: Mask
    fillers: Mask
    blocked: dict[int, str]
    readers: list[Reader]

    def kept(self, slots: Ids) -> Ids:
        """Return the positions along an axis that stay."""
        return np.flatnonzero(~self.removed[self.roots[slots]])


def plan_removal(trace: Trace, constants: Constants, align: int) -> Plan:
    """Find every removable channel, then put some back so that widths are multiples of `align`.

    A channel may go when it is not frozen and each reading of it is harmless: the value is always
    zero, or the column is zero for all rows that stay, or the value is a constant that a layer without
    padding can take into its bias. Rows that go free what they read, so this repeats until nothing changes.
    """
    roots, frozen = trace.slots.roots(), trace.slots.frozen()
    readers = [_reader(trace, use, roots, constants) for use in trace.uses if use.role == "consumer"]
    dead = np.zeros(len(roots), dtype=bool)
    blocked = np.ones(len(roots), dtype=bool)
    while True:
        blocked[:] = False
        blocked[list(frozen)] = True
        for reader in readers:
            blocked[reader.columns[reader.harmful(dead)]] = True
        if np.array_equal(~blocked, dead):
            break
        dead = ~blocked
    removed = _filled(trace, roots, dead, align)
    reasons = {**_harm(readers, dead), **frozen}
    return Plan(trace, roots, removed, dead & ~removed, reasons, readers)


def _reader(trace: Trace, use: Use, roots: Ids, constants: Constants) -> Reader:
    weight = tensor_of(trace.module, use.tensor).detach()
    weight = weight if use.axis == 1 else weight.transpose(0, 1)
    touched = (weight != 0).reshape(*weight.shape[:2], -1).any(2).numpy()
    made = next(item for item in trace.uses if item.node is use.node and item.role == "filter")
    return Reader(use, roots[use.slots], roots[made.slots], touched, constants.read_by(use.node), _can_fold(use.node))


def _can_fold(node: Node) -> bool:
    """Tell whether a constant input can move into the bias: no padding, and the bias is this layer's own."""
    weight, bias = argument(node, "weight"), argument(node, "bias")
    own = len(weight.users) == 1 and (bias is None or len(bias.users) == 1)
    return own and not is_padded(node) and operator(node) not in TRANSPOSED_CONVOLUTIONS


def _filled(trace: Trace, roots: Ids, dead: Mask, align: int) -> Mask:
    """Put dead channels back until every width is a multiple of `align` (or the original), and none is empty."""
    filters = [np.unique(roots[use.slots]) for use in trace.uses if use.role == "filter"]
    tensors = [np.unique(roots[flow.slots]) for node in trace.flows if (flow := trace.channels(node)) is not None]
    removed = dead.copy()
    while True:
        before = removed.copy()
        for axis in filters:
            _revive(removed, axis, align)
        for axis in tensors:
            _revive(removed, axis, 1)
        if np.array_equal(before, removed):
            return removed


def _revive(removed: Mask, axis: Ids, align: int) -> None:
    alive = int((~removed[axis]).sum())
    wanted = min(len(axis), -(-max(alive, 1) // align) * align)
    removed[axis[removed[axis]][: wanted - alive]] = False


def _harm(readers: list[Reader], dead: Mask) -> dict[int, str]:
    """Say, for each channel that stays, which layer needs it."""
    reasons: dict[int, str] = {}
    for reader in readers:
        for column in np.flatnonzero(reader.harmful(dead)):
            number = reader.constants[column]
            layer = layer_of(reader.use.node)
            if np.isnan(number):
                reason = f"{layer} reads it, and it is not one constant everywhere (another branch, or padding before)"
            elif reader.foldable or not is_padded(reader.use.node):
                reason = f"it emits the constant {number:.4g}, which {layer} cannot take into a bias of its own"
            else:
                reason = f"it emits the constant {number:.4g} into the padded layer {layer}"
            reasons.setdefault(int(reader.columns[column]), reason)
    return reasons
