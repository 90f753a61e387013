"""Sparse weights inside an ONNX file: which weights are encoded, and how.

`encode` comes last, after every optimisation and quantization of the graph: optimisers fold the decoders back into
dense weights. See `onnx_decoders.py` for the nodes, `pdp_export.encoding` for the codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.converters.onnx_decoders import Decoders
from pdp_export.encoding import choose, codecs
from pdp_export.encoding.code import Code
from pdp_export.encoding.codecs import CODECS

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Array = np.ndarray[Any, Any]

# ONNX Runtime >= 1.27 does not fold a node whose output is larger than 1 GiB; the widest intermediate
# has 4 bytes per weight.
MAX_ELEMENTS = (1 << 30) // 4

_SLACK = 8192
"""Bytes by which nodes and tables may reorder two payloads; codecs within it are built to learn their exact bytes."""


_NODE_BYTES = 512
"""Bytes that each node beyond those of gap8 has to save where "auto" looks for load: ONNX Runtime takes some 0.2 ms to
fold one, whatever its size, so that the shortest code of a small weight is not worth it."""
_FREE_NODES = 5


@dataclass(frozen=True)
class _Candidate:
    """One way to store one weight: bytes of its own, and the tables that it needs in the file.

    `extra_nodes` are those beyond the decoder of gap8, the quickest.
    """

    code: Code
    own_bytes: int
    extra_nodes: int
    tables: Mapping[str, int]


def encode(model: ModelProto, encoding: str, objective: str = "load", *, half: bool = False) -> dict[str, Code]:
    """Encode the weights of `model` in place, each one only where that makes the file smaller.

    Args:
        model: A model whose weights are dense initializers, float32, float16 or int8.
        encoding: "dense" leaves all as they are; "auto" chooses for each; or one of `codecs.FAMILIES`.
        objective: What "auto" chooses from: "load" (codes that are decoded nearly as fast as dense weights are read)
            or "size" (all of them), and whether a node has to be worth the time it takes.
        half: Store float32 weights rounded to float16; they are widened again when the file is loaded.

    Returns:
        The code of every weight that is no longer a plain initializer.

    Raises:
        ConversionError: for a tensor name that the decoder needs and the graph already uses.
    """
    names = choose.candidates(encoding, objective)
    if names == ("dense",) and not half:
        return {}
    found = {item.name: _candidates(item, names, half) for item in model.graph.initializer if _eligible(item)}
    dtypes = {item.name: _restored_dtype(item) for item in model.graph.initializer if item.name in found}
    chosen = _plan(found, _NODE_BYTES if (encoding, objective) == ("auto", "load") else 0)
    plan = {name: item.code for name, item in chosen.items() if not _is_plain(item.code, dtypes[name])}
    decoders = Decoders(_names(model))
    for name, code in plan.items():
        decoders.add(name, code, dtypes[name])
    kept = [item for item in model.graph.initializer if item.name not in plan]
    nodes = [*decoders.nodes, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend([*kept, *decoders.constants.values()])
    model.graph.node.extend(nodes)
    return plan


def decode(model: ModelProto, plan: Mapping[str, Code]) -> dict[str, Array]:
    """Decode the weights that `encode` put into `model`, from what the model holds."""
    from onnx import numpy_helper

    stored = {item.name: item for item in model.graph.initializer}
    found = {}
    for name, code in plan.items():
        arrays = {role: numpy_helper.to_array(stored[f"{name}/{role}"]) for role in code.arrays}
        found[name] = codecs.decode(Code(code.encoding, arrays, code.shape, code.parameters))
    return found


def _candidates(item: TensorProto, names: Sequence[str], half: bool) -> list[_Candidate]:
    """Return the dense form and the best payloads, measured with their names and nodes."""
    from onnx import numpy_helper

    values, dtype = numpy_helper.to_array(item), _restored_dtype(item)
    if half and values.dtype == np.float32 and not _exceeds_half(values):
        values = values.astype(np.float16)
    payloads = choose.ranked(values, names)
    best = [name for size, name in payloads if size <= payloads[0][0] + _SLACK]
    found = []
    for name in dict.fromkeys(["dense", *best]):
        decoders = Decoders(set())
        code = CODECS[name].encode(values)
        decoders.add(item.name, code, dtype)
        tables = decoders.tables()
        found.append(
            _Candidate(code, decoders.nbytes - sum(tables.values()), max(len(decoders.nodes) - _FREE_NODES, 0), tables)
        )
    return found


def _plan(found: Mapping[str, Sequence[_Candidate]], node_bytes: int) -> dict[str, _Candidate]:
    """Choose per weight. Tables are paid once, so every set of large ones is tried, and the cheapest file wins."""
    sizes: dict[str, int] = {}
    for candidate in (item for items in found.values() for item in items):
        sizes.update(candidate.tables)
    large = [name for name, size in sizes.items() if size > 256]  # noqa: PLR2004  a size or shape is never that long

    def total(allowed: Iterable[str]) -> tuple[int, dict[str, _Candidate]]:
        barred = set(large) - set(allowed)
        chosen = {
            name: min((item for item in items if not barred & item.tables.keys()), key=_cost)
            for name, items in found.items()
        }
        used = {table for item in chosen.values() for table in item.tables}
        own = sum(item.own_bytes + node_bytes * item.extra_nodes for item in chosen.values())
        return own + sum(sizes[name] for name in used), chosen

    def _cost(item: _Candidate) -> int:
        return (
            item.own_bytes
            + node_bytes * item.extra_nodes
            + sum(size for name, size in item.tables.items() if name not in large)
        )

    subsets = (subset for count in range(len(large) + 1) for subset in combinations(large, count))
    return min((total(subset) for subset in subsets), key=lambda pair: pair[0])[1]


def _is_plain(code: Code, dtype: np.dtype[Any]) -> bool:
    return code.encoding == "dense" and code.arrays["values"].dtype == dtype


def _exceeds_half(values: Array) -> bool:
    """Whether a finite value would become infinite."""
    return bool((np.abs(values[np.isfinite(values)]) > np.finfo(np.float16).max).any())


def _restored_dtype(item: TensorProto) -> np.dtype[Any]:
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(item.data_type))


def _eligible(item: TensorProto) -> bool:
    """Weights only: small vectors (Resize scales, Clip bounds) must stay constants for shape inference."""
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)
    return item.data_type in kinds and len(item.dims) > 1 and 0 < _size(item.dims) <= MAX_ELEMENTS


def _names(model: ModelProto) -> set[str]:
    graph = model.graph
    outputs = [name for node in graph.node for name in node.output]
    return {*outputs, *(item.name for item in (*graph.input, *graph.initializer))}


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
