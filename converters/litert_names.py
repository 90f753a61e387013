"""Gives the tensors of a converted .tflite model the names of the PyTorch program, and proves its zeros arrived."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.converters import litert_graph
from pdp_export.encoding.tflite_layout import WEIGHT_INPUT, to_torch
from pdp_export.errors import ConversionError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Array = np.ndarray[Any, Any]

_MATRIX = 2
_LAYERS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "convolution", "linear")


def rename(
    model: Any, program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]
) -> dict[str, dict[str, str] | list[str]]:
    """Name inputs, outputs, weights and intermediate tensors, and say what the names leave out.

    Returns:
        ``aliases``: litert-torch merges equal constants; this maps each further name to the name in the file.
        ``transposed``: names of matrices that the file holds transposed (``x @ w`` becomes FULLY_CONNECTED).
        ``shapes``: name -> the program's shape, as JSON, where the file's has other axes (Conv1d, (C, 1, 1) scales).

    Raises:
        ConversionError: when a pruned weight of a convolution or linear layer is not in the file, zero for zero, or
            when an input or output got lost.
    """
    names = _io_names(model, inputs, outputs)
    stored = _StoredConstants(model)
    program_weights = _program_constants(program)
    aliases: dict[str, str] = {}
    transposed: list[str] = []
    shapes: dict[str, str] = {}
    for name, values in program_weights.items():
        place, turned = stored.find(values)
        if place is None:
            continue
        aliases[name] = names.setdefault(place, name)
        transposed += [name] if turned else []
        if not turned and stored.shapes[place] != values.shape:
            shapes[name] = json.dumps(values.shape)
    _prove_zeros(program, program_weights, stored)
    _apply(model, names)
    aliases = {name: first for name, first in aliases.items() if name != first}
    return {"aliases": aliases, "transposed": transposed, "shapes": shapes}


def _io_names(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> dict[tuple[int, int], str]:
    """Rewrite the signature and return (graph, tensor) -> name for inputs and outputs."""
    signature = model.signatureDefs[0]
    names: dict[tuple[int, int], str] = {}
    for prefix, entries, wanted in (("args_", signature.inputs, inputs), ("output_", signature.outputs, outputs)):
        by_name = {entry.name.decode(): entry for entry in entries}
        keys = [f"{prefix}{position}" for position in range(len(wanted))]
        if set(keys) != set(by_name):
            raise ConversionError(
                f"the converted model has {len(entries)} {prefix.rstrip('_')} tensors, {len(wanted)} are named",
                where=", ".join(wanted),
                hint="make every named input reach an output, and name every output once",
            )
        entries[:] = [by_name[key] for key in keys]
        for entry, name in zip(entries, wanted, strict=True):
            entry.name = name.encode()
            names.setdefault((signature.subgraphIndex, entry.tensorIndex), name)
    graph = model.subgraphs[signature.subgraphIndex]
    graph.inputs = [entry.tensorIndex for entry in signature.inputs]
    graph.outputs = [entry.tensorIndex for entry in signature.outputs]
    return names


class _StoredConstants:
    """The float constants of the file, found by their bits in PyTorch layout, or by the place of their zeros."""

    def __init__(self, model: Any) -> None:
        self.by_bits: dict[str, tuple[int, int]] = {}
        self.shapes: dict[tuple[int, int], tuple[int, ...]] = {}
        self.zero_masks: set[str] = set()
        self.zero_counts: dict[int, int] = defaultdict(int)
        for number, graph in enumerate(model.subgraphs):
            readers = litert_graph.consumers(graph)
            for owner, _, index, values in litert_graph.constants(model):
                if owner is graph and values.dtype == np.float32:
                    operators = [(litert_graph.operator_name(model, item), at) for item, at in readers.get(index, [])]
                    layer = next((name for name, place in operators if WEIGHT_INPUT.get(name) == place), "")
                    self._add((number, index), to_torch(layer, values))

    def _add(self, key: tuple[int, int], values: Array) -> None:
        self.by_bits.setdefault(_digest(values + np.float32(0)), key)
        self.shapes[key] = values.shape
        self.zero_masks.add(_digest(values == 0))
        self.zero_counts[values.size] = max(self.zero_counts[values.size], int(np.count_nonzero(values == 0)))

    def find(self, values: Array) -> tuple[tuple[int, int] | None, bool]:
        """Return where the values are (graph, tensor), and whether they lie transposed there."""
        place = self.by_bits.get(_digest(values + np.float32(0)))
        if place is None and values.ndim == _MATRIX:
            place = self.by_bits.get(_digest(values.T + np.float32(0)))
            return place, place is not None
        return place, False

    def holds_zeros_of(self, values: Array) -> bool:
        """Say whether a constant has its zeros at the same places, or in another layout at least as many."""
        if self.find(values)[0] is not None or _digest(values == 0) in self.zero_masks:
            return True
        return self.zero_counts[values.size] >= int(np.count_nonzero(values == 0))


def _digest(values: Array) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()


def _program_constants(program: ExportedProgram) -> dict[str, Array]:
    tensors = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants}
    floats = {name: tensor for name, tensor in tensors.items() if str(getattr(tensor, "dtype", "")) == "torch.float32"}
    return {name: tensor.detach().cpu().numpy() for name, tensor in floats.items() if tensor.numel() > 1}


def _prove_zeros(program: ExportedProgram, values: Mapping[str, Array], stored: _StoredConstants) -> None:
    for name in _layer_weights(program):
        weight = values.get(name)
        if weight is None or not (weight == 0).any() or stored.holds_zeros_of(weight):
            continue
        raise ConversionError(
            f"litert-torch split or changed {name!r}: no constant of the file has its {int((weight == 0).sum())} zeros",
            where=name,
            hint="a grouped transposed convolution is split, for example; exclude the layer from pruning (--ignore)",
        )


def _layer_weights(program: ExportedProgram) -> Iterator[str]:
    """Yield the names of the stored weights of convolutions and linear layers."""
    signature = program.graph_signature
    names: Mapping[str, str] = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op == "call_function" and _layer(node.target) in _LAYERS:
            weight = names.get(getattr(node.args[1], "name", ""))
            if weight is not None:
                yield weight


def _layer(target: Any) -> str:
    parts = str(target).split(".")
    return parts[1] if len(parts) > 1 else ""


def _apply(model: Any, names: Mapping[tuple[int, int], str]) -> None:
    """Write the names; all other tensors are called after the operator that fills them, or ``constant_<n>``."""
    taken = set(names.values())
    for number, graph in enumerate(model.subgraphs):
        makers = {
            index: f"{litert_graph.operator_name(model, operator).lower()}_{place}"
            for place, operator in enumerate(graph.operators)
            for index in operator.outputs
        }
        for index, tensor in enumerate(graph.tensors):
            name = names.get((number, index)) or _unused(makers.get(index, f"constant_{index}"), taken)
            tensor.name = name.encode()
            taken.add(name)


def _unused(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken or f"{candidate}/dense" in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate
