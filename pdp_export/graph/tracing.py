"""Follows channels through a captured program, node by node, with one small rule per operator family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import layer_of, operator_name, tensor_of
from pdp_export.graph.slots import Channels, Contraction, Ids, Join, Role, SlotTable, SplitChannels, Ties, Use

Flow = Channels | SplitChannels | tuple[Channels | SplitChannels | None, ...] | None
"""What a node carries: channels, several tensors (a chunk), or nothing that can be followed."""

Rule = Callable[["Trace", Node], Flow]


@dataclass
class Trace:
    """Where every channel of a program comes from, what travels along with it, and who reads it.

    With free `ties` a branch ends at its join (`joins`); the stream behind it has slots that no filter opens.
    """

    module: GraphModule
    ties: Ties = "stream"
    slots: SlotTable = field(default_factory=SlotTable)
    flows: dict[Node, Flow] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    _by_axis: dict[tuple[str, int], Ids] = field(default_factory=dict)
    _accounted: set[tuple[Node, Node]] = field(default_factory=set)

    def channels(self, node: object) -> Channels | None:
        """Return the channels of a node that is one tensor, if they could be followed."""
        flow = self.flows.get(node) if isinstance(node, Node) else None
        return flow if isinstance(flow, Channels) else None

    def split(self, node: object) -> SplitChannels | None:
        """Return the channels of a node that has them along several axes."""
        flow = self.flows.get(node) if isinstance(node, Node) else None
        return flow if isinstance(flow, SplitChannels) else None

    def use(self, tensor: Node, axis: int, slots: Ids, role: Role, node: Node) -> None:
        """Record that an axis of a stored tensor belongs to `slots`; a tensor used twice ties both.

        With free ties a reader used twice ties nothing: its columns stay, whatever is zero there.
        """
        name = str(tensor.target)
        if role not in ("consumer", "grouped") or self.ties == "stream":
            earlier = self._by_axis.setdefault((name, axis), slots)
            if earlier is not slots:
                self.slots.unite(earlier, slots)
        self.uses.append(Use(name, axis, slots, role, node))
        self.account(tensor, node)

    def account(self, tensor: Node, node: Node) -> None:
        """Note that a rule has dealt with this reading of a stored tensor."""
        self._accounted.add((tensor, node))

    def opened_by(self, tensor: Node, axis: int, node: Node) -> Ids:
        """Return the slots that this axis of a weight makes: new ones, or those of its first use."""
        size = tensor_of(self.module, str(tensor.target)).shape[axis]
        known = self._by_axis.get((str(tensor.target), axis))
        slots = self.slots.open(size) if known is None else known
        self.use(tensor, axis, slots, "filter", node)
        return slots

    def fixed(self, count: int, reason: str) -> Ids:
        """Return new slots that may never go."""
        slots = self.slots.open(count)
        self.slots.freeze(slots, reason)
        return slots

    def join(self, node: Node, branches: Mapping[Node, Channels]) -> Ids:
        """End these branches at `node`; return the slots of the stream behind it, which no mask may claim."""
        self.joins += [Join(node, source, channels.slots) for source, channels in branches.items()]
        count = max(len(channels.slots) for channels in branches.values())
        return self.fixed(count, f"it is tied to the stream behind {operator_name(node)} ({layer_of(node)})")

    def freeze(self, nodes: list[Node], reason: str) -> None:
        """Freeze whatever channels these nodes carry."""
        for node in nodes:
            flow = self.flows.get(node)
            for part in flow if isinstance(flow, tuple) else (flow,):
                if part is not None:
                    self.slots.freeze(part.slots, reason)

    def freeze_unaccounted(self) -> None:
        """Freeze tensors that some operator reads without a rule: their shape must stay."""
        for tensor in self.module.graph.nodes:
            if tensor.op != "get_attr":
                continue
            for node in tensor.users:
                if (tensor, node) not in self._accounted:
                    self._freeze_tensor(str(tensor.target), f"{tensor.target} is also read by {operator_name(node)}")

    def _freeze_tensor(self, name: str, reason: str) -> None:
        for (tensor, _), slots in self._by_axis.items():
            if tensor == name:
                self.slots.freeze(slots, reason)


def without_rule(result: Trace, node: Node, why: str = "has no rule") -> Flow:
    """Freeze everything that goes into this node: nothing is known about what comes out."""
    result.freeze(node.all_input_nodes, f"operator {operator_name(node)} ({layer_of(node)}) {why}")
    return None


def collapse(trace: Trace, split: SplitChannels) -> None:
    """Let everything behind one entry of the first axis (a head) live or die together."""
    lines = split.slots.reshape(len(split.slots), -1)
    for column in lines.T[1:]:
        trace.slots.unite(lines[:, 0], column)


def repeated(slots: Ids, times: int) -> Ids:
    """Return every slot `times` times in a row."""
    return np.repeat(slots, times)
