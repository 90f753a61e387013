"""Decides which channels may go: those that nothing needs, or that are one constant wherever they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.fx import Node

from pdp_export.graph.facts import Facts, grids
from pdp_export.graph.nodes import layer_of
from pdp_export.graph.slots import Channels, Ids, SplitChannels, Use
from pdp_export.graph.tracing import Trace
from pdp_export.removal.costs import CostModel
from pdp_export.removal.grouping import groupings
from pdp_export.removal.narrow_options import Narrowing
from pdp_export.removal.narrowing import narrowed
from pdp_export.removal.readers import Mask, Merge, Reader, readers_of
from pdp_export.removal.reasons import VARIES
from pdp_export.removal.records import LayerChoice
from pdp_export.removal.sharing import Sharing


@dataclass(frozen=True)
class Plan:
    """What goes. All arrays are indexed by slot; only representatives count.

    `removed` is what goes; `fillers` could go and stay to fill a width (or as the last channel);
    `blocked` says why a slot stays; `merges` which constant column of a reader takes over the others;
    `narrowed` which layers work on fewer channels than stay, by which `choices`, `sharings` which of them read
    results of their own; `align` the multiple that widths are filled to; `before_concatenations` that selects go there
    however many that makes.
    """

    trace: Trace
    roots: Ids
    removed: Mask
    fillers: Mask
    blocked: dict[int, str]
    readers: list[Reader]
    merges: list[Merge]
    narrowed: Mapping[Node, Narrowing] = field(default_factory=dict)
    sharings: Sequence[Sharing] = ()
    choices: Sequence[LayerChoice] = ()
    align: int = 1
    before_concatenations: bool = False

    def stay(self, use: Use) -> Ids:
        """Return the positions along the axis of a stored tensor that stay."""
        narrow = self.narrowed.get(use.node)
        if narrow is None:
            return self.kept(use.slots)
        return narrow.columns if use.role == "consumer" else narrow.rows

    def kept(self, slots: Ids) -> Ids:
        """Return the positions along an axis that stay."""
        return np.flatnonzero(~self.removed[self.roots[slots]])

    def keeps_all(self, channels: Channels) -> bool:
        """Tell whether none of these channels goes."""
        return not self.removed[self.roots[channels.slots]].any()

    def kept_along(self, split: SplitChannels) -> list[Ids]:
        """Return the positions along each axis of split channels of which anything stays."""
        kept = ~self.removed[self.roots[split.slots]]
        others = [tuple(a for a in range(kept.ndim) if a != axis) for axis in range(kept.ndim)]
        return [np.flatnonzero(kept.any(axes)) for axes in others]


def plan_removal(trace: Trace, facts: Facts, aligns: Sequence[int], cost: CostModel) -> Plan:
    """Find every removable channel, then put some back so that widths are multiples of one of `aligns`.

    A channel may go when it is not frozen, when no tensor holds it live (needed and dependent on the
    input), and when every layer that reads it as a constant can do without: one without padding takes it
    into its bias, one with padding keeps a single constant channel in the place of all of them, which is
    exact at the border too. Layers that could do with fewer channels than stay are narrowed where `cost`
    says that it pays. Of several `aligns`, the one counts with which all layers together cost least.
    """
    roots, frozen = trace.slots.roots(), trace.slots.frozen()
    readers = readers_of(trace, facts, roots)
    reasons = dict(_live(trace, facts, roots)) | dict(_read(readers)) | dict(_summed(trace, facts, roots)) | frozen
    blocked = np.zeros(len(roots), dtype=bool)
    blocked[list(reasons)] = True
    for reader, columns, reason in _owing(readers, blocked):
        blocked[reader.columns[columns]] = True
        for root in reader.columns[columns].tolist():
            reasons.setdefault(root, reason)
    merges = [merge for reader in readers if (merge := reader.merge(blocked)) is not None]
    plans: list[tuple[float, Plan]] = []
    for align in aligns:
        removed = _filled(trace, roots, ~blocked, align)
        narrow = narrowed(trace, facts, readers, removed, roots, cost, count_all=len(aligns) > 1)
        fillers = ~blocked & ~removed
        plan = Plan(
            trace, roots, removed, fillers, reasons, readers, merges, narrow.found, narrow.sharings, narrow.choices,
            align, cost.before_concatenations,
        )  # fmt: skip
        plans.append((narrow.total, plan))
    return min(plans, key=lambda item: item[0])[1]


def _live(trace: Trace, facts: Facts, roots: Ids) -> Iterator[tuple[int, str]]:
    """Yield every slot that some tensor holds live."""
    for node in trace.flows:
        reason = f"the result of {layer_of(node)} depends on it"
        for root in np.unique(roots[_living(trace, facts, node)]).tolist():
            yield root, reason


def _living(trace: Trace, facts: Facts, node: Node) -> Ids:
    channels, split = trace.channels(node), trace.split(node)
    living = np.zeros(0, dtype=np.int64)
    if channels is not None:
        living = channels.slots[facts.live(node, channels.axis, len(channels.slots)).numpy()]
    elif split is not None:
        living = split.slots[facts.live_along(node, split.axes, split.slots.shape).numpy()]
    return living


def _read(readers: list[Reader]) -> Iterator[tuple[int, str]]:
    """Yield the slots that a layer reads and cannot do without."""
    for reader in readers:
        columns = reader.touched[reader.matters].any(0) & ~np.isfinite(reader.constants)
        reason = f"{layer_of(reader.use.node)} reads it, and {VARIES}"
        for root in np.unique(reader.columns[columns]).tolist():
            yield root, reason


def _summed(trace: Trace, facts: Facts, roots: Ids) -> Iterator[tuple[int, str]]:
    """Yield the slots that bring a constant into a sum of products, which no bias could take over."""
    for item in trace.contractions:
        left, right = trace.channels(item.first), trace.channels(item.second)
        if left is None or right is None or not facts.need(item.node).any():
            continue
        pairs = ((facts.constant(item.first), left), (facts.constant(item.second), right))
        silent = [(grids.line(grid, side.axis, len(side.slots)) == 0).numpy() for grid, side in pairs]
        for root in roots[left.slots[~(silent[0] | silent[1])]].tolist():
            yield root, f"{layer_of(item.node)} sums a product that is not zero there"


def _owing(readers: list[Reader], blocked: Mask) -> Iterator[tuple[Reader, Mask, str]]:
    """Yield columns that must stay because of the constant that they bring, until nothing changes.

    The caller notes them in `blocked` before the next.
    """
    changed = True
    while changed:
        changed = False
        for reader in readers:
            staying = reader.owing(blocked)
            if staying.any():
                changed = True
                yield reader, staying, _constant_reason(reader, staying)


def _constant_reason(reader: Reader, columns: Mask) -> str:
    number, layer = reader.constants[columns][0], layer_of(reader.use.node)
    if not reader.editable:
        return f"it emits the constant {number:.4g}, and the weight of {layer} is used elsewhere too"
    return f"it emits the constant {number:.4g} into the padded layer {layer}, in the place of all such channels"


def _filled(trace: Trace, roots: Ids, dead: Mask, align: int) -> Mask:
    """Put dead channels back until every width is a multiple of `align` (or the original), and none is empty."""
    filters = [np.unique(roots[use.slots]) for use in trace.uses if use.role == "filter"]
    flows = [trace.channels(node) or trace.split(node) for node in trace.flows]
    tensors = [np.unique(roots[flow.slots]) for flow in flows if flow is not None]
    grouped, split = groupings(trace), _split_tensors(trace)
    removed = dead.copy()
    while True:
        before = removed.copy()
        for item in grouped:
            removed[list(item.equalised(removed, roots))] = False
        for slots in split:
            _complete(removed, roots[slots])
        for axis in filters:
            _revive(removed, axis, align)
        for axis in tensors:
            _revive(removed, axis, 1)
        if np.array_equal(before, removed):
            return removed


def _split_tensors(trace: Trace) -> list[Ids]:
    """Return the slots of every tensor with several channel axes, but for those on the way of a shuffle."""
    passing: set[Node] = set()
    for node in reversed(list(trace.flows)):
        flow = trace.flows[node]
        if isinstance(flow, SplitChannels) and flow.origin is None:
            continue
        ends = [trace.channels(user) for user in node.users]
        shuffles = [end is not None and end.origin is not None for end in ends]
        if all(user in passing or gone for user, gone in zip(node.users, shuffles, strict=True)):
            passing.add(node)
    return [split.slots for node in trace.flows if node not in passing and (split := trace.split(node)) is not None]


def _complete(removed: Mask, slots: Ids) -> None:
    """Put back what is missing from whole rows and columns of a tensor with several channel axes."""
    kept = ~removed[slots]
    whole = np.ones_like(kept)
    for axis in range(kept.ndim):
        others = tuple(other for other in range(kept.ndim) if other != axis)
        whole &= kept.any(others, keepdims=True)
    removed[slots[whole]] = False


def _revive(removed: Mask, axis: Ids, align: int) -> None:
    alive = int((~removed[axis]).sum())
    wanted = min(len(axis), -(-max(alive, 1) // align) * align)
    removed[axis[removed[axis]][: wanted - alive]] = False
