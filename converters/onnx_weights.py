"""The weights of the exported graph, held against those of the program: same names, and every zero still a zero.

torch's exporter keeps the name of a parameter that it stores as it is. It renames one that it transposes (the weight
of a Linear that becomes a MatMul), and folds small expressions of weights into new constants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.encoding.zeros import positive_zeros
from pdp_export.errors import ConversionError, ProofError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto
    from torch import Tensor
    from torch.export import ExportedProgram

Array = np.ndarray[Any, Any]

_PARAMETRIZED = re.compile(r"(?:^|\.)parametrizations\.")


def parameters(program: ExportedProgram) -> dict[str, Array]:
    """Return every weight of rank >= 2 that the program uses, by its torch name, with positive zeros.

    Raises:
        ConversionError: a weight is not float32, or a mask or another parametrization is still attached to one.
    """
    return {
        name: positive_zeros(tensor.detach().cpu().numpy())
        for name, tensor in float_parameters(program)
        if tensor.dim() > 1
    }


def float_parameters(program: ExportedProgram) -> Iterator[tuple[str, Tensor]]:
    """Yield every floating-point weight that the program uses; raises as `parameters` does."""
    used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    for spec in program.graph_signature.input_specs:
        tensor = program.state_dict.get(spec.target) if spec.target else None
        if tensor is None or not tensor.is_floating_point() or getattr(spec.arg, "name", None) not in used:
            continue
        name = str(spec.target)
        _refuse(name, str(tensor.dtype).removeprefix("torch."), program.state_dict)
        yield name, tensor


def restore_names(model: ModelProto, weights: Mapping[str, Array]) -> None:
    """Give each constant that is a parameter, or its transpose, the name of that parameter."""
    stored = constants(model)
    free = {name: values for name, values in stored.items() if name not in weights and values.ndim > 1}
    names = {}
    for weight, values in weights.items():
        if weight in stored:
            continue
        found = next((name for name, other in free.items() if _same(values, other)), None)
        if found is not None:
            names[found] = weight
            del free[found]
    _rename(model.graph, names)


def prove_zeros(weights: Mapping[str, Array], stored: Mapping[str, Array]) -> None:
    """Check that every zero of every weight is a zero in the file.

    A weight tied to another one is stored under one of the two names. A weight that was folded into a new constant has
    no counterpart of its own; those are compared by the number of their zeros.

    Raises:
        ProofError: naming the weight and the zeros that are gone.
    """
    lost = {name: _lost(values, stored[name]) for name, values in weights.items() if name in stored}
    gone = {name: values for name, values in weights.items() if name not in stored}
    missing = {
        name: int((values == 0).sum())
        for name, values in gone.items()
        if not any(_same(values, other) for other in stored.values())
    }
    spare = sum(int((values == 0).sum()) for name, values in stored.items() if name not in weights)
    if sum(missing.values()) > spare:
        lost |= missing
    for name, count in lost.items():
        if count > 0:
            raise ProofError(
                f"{count} zeros of weight {name!r} are no longer zero in the ONNX graph",
                where=name,
                hint="the model computes this weight from another one; bake it into a plain parameter first",
            )


def constants(model: ModelProto) -> dict[str, Array]:
    """Return the float constants of the graph by name, and the int8 weights of a quantized one."""
    from onnx import numpy_helper

    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    return {name: values for name, values in arrays.items() if values.dtype.kind == "f" or _is_int8_weight(values)}


def subgraphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield the graph and every graph inside of its nodes (bodies of If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from subgraphs(inner)


def _is_int8_weight(values: Array) -> bool:
    return values.dtype == np.int8 and values.ndim > 1


def _same(values: Array, other: Array) -> bool:
    return any(np.array_equal(values, layout, equal_nan=True) for layout in _layouts(other))


def _layouts(stored: Array) -> list[Array]:
    """Return the constant and, for a matrix, its transpose."""
    matrix_rank = 2
    return [stored, stored.T] if stored.ndim == matrix_rank else [stored]


def _lost(values: Array, other: Array) -> int:
    """Count the zeros of `values` that `other`, the same weight in the file or its transpose, lacks."""
    layouts = [layout for layout in _layouts(other) if layout.shape == values.shape]
    if layouts:
        return min(int(((values == 0) & (layout != 0)).sum()) for layout in layouts)
    return int((values == 0).sum()) - int((other == 0).sum())


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for item in graph.initializer:
        item.name = names.get(item.name, item.name)
    for inner in subgraphs(graph):
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]


def _refuse(name: str, dtype: str, state: Mapping[str, Any]) -> None:
    hooked = name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in state
    if hooked or _PARAMETRIZED.search(name):
        raise ConversionError(
            f"{name!r} is part of a parametrized weight: a mask or a norm is still attached",
            where=name,
            hint="harden the pruner (or torch.nn.utils.parametrize.remove_parametrizations), then capture again",
        )
    if dtype != "float32":
        raise ConversionError(
            f"weight {name!r} is {dtype}, not float32", where=name, hint="call .float() before capture"
        )
