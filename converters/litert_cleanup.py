"""Rewrites of a converted .tflite graph that keep its function: a shorter ending, and nothing unused left over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pdp_export.converters import litert_graph

_GRAPH_LISTS = ("inputs", "outputs")
_OPERATOR_LISTS = ("inputs", "outputs", "intermediates")


def fold_transpose_into_mean(model: Any) -> int:
    """Let MEAN read the input of a TRANSPOSE before it, over the axes as they lie there; return how many.

    litert-torch writes ``x.mean([2, 3])`` as TRANSPOSE + MEAN, and the TRANSPOSE keeps XNNPACK from running the
    network before it with sparse kernels. Only a MEAN that drops its axes and leaves the others in order is folded.
    """
    folded = 0
    for graph in model.subgraphs:
        producers = {operator.outputs[0]: operator for operator in graph.operators if len(operator.outputs) == 1}
        for mean in graph.operators:
            transpose = producers.get(mean.inputs[0]) if mean.inputs else None
            if transpose is None or litert_graph.operator_name(model, transpose) != "TRANSPOSE":
                continue
            axes = _folded_axes(model, graph, transpose, mean)
            if axes is not None:
                name = f"{graph.tensors[mean.inputs[1]].name.decode()}/folded"
                mean.inputs = [transpose.inputs[0], litert_graph.add_constant(model, graph, name, axes)]
                folded += 1
        _drop_unread(model, graph, "TRANSPOSE")
    return folded


def _folded_axes(model: Any, graph: Any, transpose: Any, mean: Any) -> Any:
    if litert_graph.operator_name(model, mean) != "MEAN" or mean.builtinOptions.keepDims:
        return None
    order = litert_graph.constant(model, graph.tensors[transpose.inputs[1]])
    axes = litert_graph.constant(model, graph.tensors[mean.inputs[1]])
    if order is None or axes is None:
        return None
    reduced = {int(axis) % len(order) for axis in axes.ravel()}
    kept = [int(source) for axis, source in enumerate(order) if axis not in reduced]
    if kept != sorted(kept):
        return None
    return np.array(sorted(int(order[axis]) for axis in reduced), dtype=np.int32)


def _drop_unread(model: Any, graph: Any, name: str) -> None:
    read = set(litert_graph.consumers(graph)) | set(graph.outputs)
    graph.operators = [
        operator
        for operator in graph.operators
        if litert_graph.operator_name(model, operator) != name or read.intersection(operator.outputs)
    ]


def drop_unused(model: Any) -> None:
    """Remove tensors, buffers and operator codes that nothing refers to, and renumber the rest in order."""
    for index, graph in enumerate(model.subgraphs):
        signatures = [item for item in model.signatureDefs or [] if item.subgraphIndex == index]
        _drop_tensors(graph, signatures)
    _drop_codes(model)
    _drop_buffers(model)


def _drop_tensors(graph: Any, signatures: list[Any]) -> None:
    used = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        used.update(operator.inputs or [], operator.outputs or [], operator.intermediates or [])
    number = _renumber(used - {-1}) | {-1: -1}
    graph.tensors = [tensor for index, tensor in enumerate(graph.tensors) if index in number]
    for owner, names in ((graph, _GRAPH_LISTS), *((item, _OPERATOR_LISTS) for item in graph.operators)):
        for name in names:
            if getattr(owner, name) is not None:
                setattr(owner, name, [number[tensor] for tensor in getattr(owner, name)])
    for signature in signatures:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = number[entry.tensorIndex]


def _drop_codes(model: Any) -> None:
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    number = _renumber({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [code for index, code in enumerate(model.operatorCodes) if index in number]
    for operator in operators:
        operator.opcodeIndex = number[operator.opcodeIndex]


def _drop_buffers(model: Any) -> None:
    owners = [tensor for graph in model.subgraphs for tensor in graph.tensors] + list(model.metadata or [])
    filled = {owner.buffer for owner in owners if model.buffers[owner.buffer].data is not None}
    number = {old: new + 1 for old, new in _renumber(filled).items()}
    model.buffers = [schema.BufferT(), *(buffer for index, buffer in enumerate(model.buffers) if index in number)]
    for owner in owners:
        owner.buffer = number.get(owner.buffer, 0)


def _renumber(used: Iterable[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(sorted(used))}
