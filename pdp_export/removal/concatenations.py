"""Moves a select in front of the concatenation that it reads, so that only what is selected is joined.

A part of which nothing is selected is not joined at all, one of which everything is selected needs no gather. So this
costs nothing where at most one part is cut; where more are, several gathers stand for one, and that is a question of
cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.fx import Node

from pdp_export.graph.nodes import argument, aten, operator, shape, tensor_of
from pdp_export.graph.slots import Ids
from pdp_export.removal.gathers import gather
from pdp_export.removal.hoisting import end_of_way
from pdp_export.removal.planning import Plan


def absorbed(plan: Plan, select: Node) -> Sequence[Node] | None:
    """Replace a select by those of the parts of the concatenation that it reads; None where it must stay.

    Returns:
        The selects that stand in its place, which may move on.
    """
    joined, axis = argument(select, "self"), argument(select, "dim")
    wanted = tensor_of(plan.trace.module, str(argument(select, "index").target)).numpy()
    chosen = _chosen(plan, joined, axis, wanted)
    if chosen is None or list(joined.users) != [select]:
        return None
    if not plan.before_concatenations and _gathers(plan, joined, axis, wanted) > 1:
        return None
    parts, selects = [], []
    with select.graph.inserting_before(joined):
        for part, (places, width) in zip(argument(joined, "tensors"), chosen, strict=True):
            if len(places) == width:
                parts.append(part)
            elif len(places):
                selects.append(gather(plan.trace.module, part, axis, places, f"{joined.name}_part"))
                parts.append(selects[-1])
        result = parts[0] if len(parts) == 1 else select.graph.call_function(aten.cat.default, (parts, axis))
    select.replace_all_uses_with(result)
    select.graph.erase_node(select)
    joined.graph.erase_node(joined)
    return selects


def cuts_parts(plan: Plan) -> bool:
    """Tell whether any select would become several in front of a concatenation."""
    for node, narrow in plan.narrowed.items():
        read = plan.trace.channels(argument(node, "input"))
        if read is None or len(narrow.columns) == len(narrow.all_columns):
            continue
        joined = end_of_way(plan.trace.module, node, read.axis)
        places = np.searchsorted(narrow.all_columns, narrow.columns)
        if _gathers(plan, joined, read.axis, places) > 1:
            return True
    return False


def _gathers(plan: Plan, joined: Node, axis: int, wanted: Ids) -> int:
    """Return how many gathers of parts would stand for one of what is joined; 1 for what is no concatenation."""
    chosen = _chosen(plan, joined, axis, wanted)
    if chosen is None or len(joined.users) > 1:
        return 1
    parts = zip(argument(joined, "tensors"), chosen, strict=True)
    return sum(_gathers(plan, part, axis, places) for part, (places, width) in parts if 0 < len(places) < width)


def _chosen(plan: Plan, joined: Node, axis: int, wanted: Ids) -> Sequence[tuple[Ids, int]] | None:
    """Return the places that are wanted of each part, and its width; None for what is no concatenation of channels.

    `wanted` are places among the channels that stay.
    """
    channels = plan.trace.channels(joined)
    if operator(joined) is not aten.cat or channels is None or channels.axis != axis:
        return None
    found, start, first = [], 0, 0
    for part in argument(joined, "tensors"):
        if len(shape(part)) <= axis:  # torch skips such empty tensors
            return None
        count = shape(part)[axis]
        width = len(plan.kept(channels.slots[start : start + count]))
        found.append((wanted[(wanted >= first) & (wanted < first + width)] - first, width))
        start, first = start + count, first + width
    return found if start == len(channels.slots) else None
