"""Counts multiply-accumulates and parameters of a captured program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn import Parameter
from torch.utils.flop_counter import flop_registry

from pdp_export.graph.nodes import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    argument,
    aten,
    is_tensor,
    operator,
    shape,
    tensor_of,
    used_tensors,
)
from pdp_export.results import Record


class LayerCount(Record):
    """One operator with weights: multiply-accumulates for one example, and its parameters."""

    layer: str
    weight: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    nonzero: int


class Counts(Record):
    """Figures of a program.

    `macs` counts dense multiply-accumulates for one example (axis 0 of the first input counts the
    examples); element-wise work is not counted. `parameters` counts every parameter once, `nonzero`
    those that are not zero.
    """

    layers: tuple[LayerCount, ...]
    macs: int
    parameters: int
    nonzero: int


def count(program: ExportedProgram) -> Counts:
    """Count a captured program."""
    return count_module(program.module(check_guards=False))


def count_module(module: GraphModule) -> Counts:
    """Count ``program.module()``, or an edited copy of it with its tensors in place."""
    macs = node_macs(module)
    layers = [_layer(module, node, work) for node, work in macs.items()]
    parameters = _parameters(module)
    return Counts(
        layers=tuple(layer for layer in layers if layer is not None),
        macs=sum(macs.values()),
        parameters=sum(total for total, _ in parameters.values()),
        nonzero=sum(nonzero for _, nonzero in parameters.values()),
    )


def node_macs(module: GraphModule) -> dict[Node, int]:
    """Return the dense multiply-accumulates of every operator for one example, in the order of the program."""
    batch = _batch(module)
    return {node: _macs(module, node) // batch for node in module.graph.nodes if node.op == "call_function"}


def _batch(module: GraphModule) -> int:
    for node in module.graph.nodes:
        if node.op == "placeholder" and is_tensor(node) and shape(node):
            return max(shape(node)[0], 1)
    return 1


def _macs(module: GraphModule, node: Node) -> int:
    kind = operator(node)
    if kind in CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS:
        weight = _size(module, argument(node, "weight"))
        # Each weight (C_out, C_in / groups, k...) works once per output position; transposed: per input position.
        positions = shape(argument(node, "input")) if kind in TRANSPOSED_CONVOLUTIONS else shape(node)
        examples = positions[0] if len(positions) == len(weight) else 1
        return examples * math.prod(weight) * math.prod(positions[-(len(weight) - 2) :])
    if kind is aten.linear:
        return math.prod(shape(node)) * shape(argument(node, "input"))[-1]
    if kind is aten.matmul:
        return math.prod(shape(node)) * shape(node.all_input_nodes[0])[-1]
    if kind is aten.scaled_dot_product_attention:
        query, key, values = (shape(argument(node, name)) for name in ("query", "key", "value"))
        return math.prod(query) * key[-2] + math.prod(query[:-1]) * math.prod(values[-2:])
    if kind in flop_registry:
        return _registered(node) // 2
    return 0


def _registered(node: Node) -> int:
    """Ask torch's own table, which counts a multiply and an add as two operations."""
    counter: Any = flop_registry[operator(node)]
    values = [item.meta["val"] if isinstance(item, Node) else item for item in node.args]
    return int(counter(*values, out_val=node.meta["val"]))


def _layer(module: GraphModule, node: Node, macs: int) -> LayerCount | None:
    """Describe an operator that has a weight of rank >= 2."""
    weights = [item for item in node.all_input_nodes if item.op == "get_attr" and len(_size(module, item)) > 1]
    if not weights or operator(node) not in CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | {aten.linear, aten.embedding}:
        return None
    tensors = [tensor_of(module, str(item.target)) for item in node.all_input_nodes if item.op == "get_attr"]
    name = str(weights[0].target)
    return LayerCount(
        layer=name.rpartition(".")[0] or name,
        weight=name,
        shape=_size(module, weights[0]),
        macs=macs,
        parameters=sum(tensor.numel() for tensor in tensors),
        nonzero=sum(int(tensor.count_nonzero()) for tensor in tensors),
    )


def _parameters(module: GraphModule) -> Mapping[str, tuple[int, int]]:
    used = {name: tensor_of(module, name) for name in used_tensors(module)}
    return {
        name: (tensor.numel(), int(tensor.count_nonzero()))
        for name, tensor in used.items()
        if isinstance(tensor, Parameter)
    }


def _size(module: GraphModule, node: Node) -> tuple[int, ...]:
    if node.op == "get_attr":
        return tuple(tensor_of(module, str(node.target)).shape)
    return shape(node)
