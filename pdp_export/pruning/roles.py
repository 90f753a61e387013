"""Which layers open and close the network: they hold few weights and much accuracy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch.export import ExportedProgram
from torch.fx import Node


def first_and_last(program: ExportedProgram, weights: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the weights that the inputs meet first and those that produce the outputs.

    `weights` are the parameter names that count (convolutions, linear layers, embeddings). For
    each input the first of them in graph order, for each output the last one: a residual stream
    reaches many layers, but only one of them is its end.
    """
    parameters = program.graph_signature.inputs_to_parameters
    names = {node: parameters[node.name] for node in program.graph.nodes if parameters.get(node.name) in weights}
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    inputs = set(program.graph_signature.user_inputs)
    starts = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    ends = program.graph.output_node().all_input_nodes
    first = _nearest(starts, lambda node: list(node.users), names, lambda found: min(found, key=order.__getitem__))
    last = _nearest(ends, lambda node: node.all_input_nodes, names, lambda found: max(found, key=order.__getitem__))
    return first, last


def _nearest(
    starts: Sequence[Node],
    neighbours: Callable[[Node], list[Node]],
    names: dict[Node, str],
    choose: Callable[[list[Node]], Node],
) -> set[str]:
    """Walk from each start to the first nodes that use a weight; return the chosen one's weights."""
    chosen: set[str] = set()
    for start in starts:
        found: list[Node] = []
        seen, stack = {start}, [start]
        while stack:
            node = stack.pop()
            if any(source in names for source in node.all_input_nodes):
                found.append(node)
                continue
            fresh = [other for other in neighbours(node) if other not in seen and other.op != "output"]
            seen.update(fresh)
            stack.extend(fresh)
        if found:
            chosen.update(names[source] for source in choose(found).all_input_nodes if source in names)
    return chosen
