"""Sparse weights inside an ONNX file: which weights are encoded, and how.

`encode` comes last, after every optimisation of the graph: optimisers fold the decoders back into dense weights. See
`onnx_decoders.py` for the nodes, `pdp_export.encoding` for the codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.converters.onnx_decoders import Decoders, framed_bytes
from pdp_export.encoding import bitmask, choose, gap8

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Array = np.ndarray[Any, Any]

# ONNX Runtime >= 1.27 does not fold a node whose output is larger than 1 GiB; the widest intermediate
# has 4 bytes per weight.
MAX_ELEMENTS = (1 << 30) // 4

_CANDIDATES = {"auto": ("dense", "gap8", "bitmask"), "gap8": ("dense", "gap8"), "bitmask": ("dense", "bitmask")}


def encode(model: ModelProto, encoding: str) -> dict[str, str]:
    """Encode the weights of `model` in place, each one only where that makes the file smaller.

    Args:
        model: A model whose weights are dense initializers.
        encoding: "dense" leaves all as they are; "gap8" and "bitmask" use that one; "auto" takes the smallest for each.

    Returns:
        The encoding of every weight that is no longer dense.

    Raises:
        ConversionError: for a tensor name that the decoder needs and the graph already uses.
    """
    from onnx import numpy_helper

    if encoding == "dense":
        return {}
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer if _eligible(item)}
    plan = _plan(weights, _CANDIDATES[encoding])
    decoders = Decoders(_names(model))
    for name, kind in plan.items():
        decoders.add(kind, name, weights[name])
    kept = [item for item in model.graph.initializer if item.name not in plan]
    nodes = [*decoders.nodes, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend([*kept, *decoders.constants.values()])
    model.graph.node.extend(nodes)
    return plan


def decode(model: ModelProto, plan: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """Decode the weights that `encode` put into `model`, from what the model holds."""
    from onnx import numpy_helper

    stored = {item.name: item for item in model.graph.initializer}

    def part(name: str, kind: str) -> Array:
        return numpy_helper.to_array(stored[f"{name}/{kind}"])

    return {
        name: gap8.decode(gap8.Gap8(part(name, "gaps"), part(name, "values"), tuple(shapes[name])))
        if kind == "gap8"
        else bitmask.decode(bitmask.Bitmask(part(name, "mask"), part(name, "values"), tuple(shapes[name])))
        for name, kind in plan.items()
    }


def _plan(weights: Mapping[str, Array], candidates: Sequence[str]) -> dict[str, str]:
    """Choose per weight; the bitmask's tables are paid once, so both answers to "any bitmask?" are compared."""
    overheads = {name: _overhead(name, values, candidates) for name, values in weights.items()}

    def total(allowed: Sequence[str]) -> tuple[int, dict[str, str]]:
        chosen = {name: choose.choose(values, allowed, overheads[name]) for name, values in weights.items()}
        plan = {name: kind for name, (kind, _) in chosen.items() if kind != "dense"}
        tables = _tables_bytes() if "bitmask" in plan.values() else 0
        return tables + sum(size for _, size in chosen.values()), plan

    without = [kind for kind in candidates if kind != "bitmask"]
    return min(total(candidates), total(without), key=lambda pair: pair[0])[1]


def _overhead(name: str, values: Array, candidates: Sequence[str]) -> dict[str, int]:
    """Return the bytes of names, nodes and headers per encoding: the file minus the payload, for a blank weight."""
    from onnx import numpy_helper

    blank = np.zeros_like(values)
    overhead = {"dense": framed_bytes(numpy_helper.from_array(blank, name)) - blank.nbytes}
    for kind in set(candidates) - {"dense"}:
        decoders = Decoders(set())
        decoders.add(kind, name, blank)
        tables = _tables_bytes() if kind == "bitmask" else 0
        overhead[kind] = decoders.nbytes - tables - choose.PREDICTORS[kind](blank)
    return overhead


@cache
def _tables_bytes() -> int:
    decoders = Decoders(set())
    decoders.tables()
    return decoders.nbytes


def _eligible(item: TensorProto) -> bool:
    """Weights only: small vectors (Resize scales, Clip bounds) must stay constants for shape inference."""
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return item.data_type in floats and len(item.dims) > 1 and _size(item.dims) <= MAX_ELEMENTS


def _names(model: ModelProto) -> set[str]:
    graph = model.graph
    outputs = [name for node in graph.node for name in node.output]
    return {*outputs, *(item.name for item in (*graph.input, *graph.initializer))}


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
