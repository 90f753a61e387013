"""Convolutions of several groups: every group that stays keeps as many inputs and outputs as the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import Node

from pdp_export.graph.nodes import argument
from pdp_export.graph.slots import Ids
from pdp_export.graph.tracing import Trace
from pdp_export.removal.readers import Mask


@dataclass(frozen=True)
class Grouping:
    """One weight with the slots that each group reads and makes, (groups, channels of a group)."""

    weight: str
    nodes: tuple[Node, ...]
    inputs: Ids
    outputs: Ids

    def equalised(self, removed: Mask, roots: Ids) -> Iterator[int]:
        """Yield the slots that must come back for the groups to be equal; a group without any channel goes."""
        inputs, outputs = roots[self.inputs], roots[self.outputs]
        staying = ~removed[inputs].all(1) | ~removed[outputs].all(1)
        for slots in (inputs[staying], outputs[staying]):
            counts = (~removed[slots]).sum(1)
            for group, count in zip(slots, counts, strict=True):
                yield from group[removed[group]][: counts.max() - count].tolist()


def groupings(trace: Trace) -> list[Grouping]:
    """Return the layers of several groups with several channels each."""
    found: dict[str, Grouping] = {}
    for use in trace.uses:
        if use.role != "grouped":
            continue
        groups = argument(use.node, "groups")
        made = next(other for other in trace.uses if other.node is use.node and other.role == "filter")
        nodes = (*found[use.tensor].nodes, use.node) if use.tensor in found else (use.node,)
        found[use.tensor] = Grouping(use.tensor, nodes, use.slots.reshape(groups, -1), made.slots.reshape(groups, -1))
    return list(found.values())
