"""Finds the PyTorch parameter behind each constant of an .mnn file.

MNN names an operator after its output tensor, and the converter records which parameter that layer has. MNN also
splits a grouped convolution into one per group: the pieces are found by walking back from the layer's output tensor,
and put together again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pdp_export.runtimes.mnn_constants import Constant
from pdp_export.runtimes.mnn_file import MnnNet, Operator
from pdp_export.runtimes.mnn_quantized import Stored
from pdp_export.runtimes.mnn_record import MnnRecord, WeightName

_MATRIX_SUFFIX = "__matmul_converted"
_SHAPE_READERS = ("Shape", "Rank", "Size")  # what lies behind them is another layer


@dataclass(frozen=True)
class NamedConstant:
    """A constant with the name it has in the PyTorch program, or the operator's where that is unknown."""

    name: str
    stored: Stored


def named_constants(net: MnnNet, record: MnnRecord | None) -> list[NamedConstant]:
    """Return every decoded constant of the file, grouped weights in one piece."""
    recorded = {} if record is None else dict(record.weights)
    merged = dict(_merged_groups(net, recorded))
    pieces = {id(operator) for operators, _ in merged.values() for operator in operators}
    found = [NamedConstant(recorded[tensor].name, stored) for tensor, (_, stored) in merged.items()]
    for operator in net.operators:
        layer = recorded.get(_layer(operator))
        for constant in operator.constants:
            if constant.role != "weight" or id(operator) not in pieces:
                found.append(_named(operator, constant, layer))
    return found


def _layer(operator: Operator) -> str:
    return operator.name.removesuffix(_MATRIX_SUFFIX)


def _named(operator: Operator, constant: Constant, layer: WeightName | None) -> NamedConstant:
    if constant.role == "value":
        return NamedConstant(operator.name, constant.stored)
    if layer is None:
        return NamedConstant(f"{_layer(operator)}.{constant.role}", constant.stored)
    if constant.role != "weight":
        return NamedConstant(f"{layer.name.removesuffix('.weight')}.{constant.role}", constant.stored)
    return NamedConstant(layer.name, _reshaped(constant.stored, layer))


def _reshaped(stored: Stored, layer: WeightName) -> Stored:
    if math.prod(layer.shape) != stored.values.size:
        return stored
    if layer.transposed:
        return stored.with_values(stored.values.reshape(layer.shape[::-1]).T)
    return stored.with_values(stored.values.reshape(layer.shape))


def _merged_groups(net: MnnNet, recorded: dict[str, WeightName]) -> Iterator[tuple[str, tuple[list[Operator], Stored]]]:
    """Yield (tensor, (operators, weight)) for every recorded layer that MNN split."""
    named = {_layer(operator) for operator in net.operators if operator.constants}
    producers = {number: operator for operator in net.operators for number in operator.outputs}
    for tensor, layer in recorded.items():
        if tensor in named or tensor not in net.tensors:
            continue
        parts = _weights_behind(net.tensors.index(tensor), producers, named & set(recorded))
        stored = _joined(parts, layer.shape)
        if stored is not None:
            yield tensor, (parts, stored)


def _weights_behind(tensor: int, producers: dict[int, Operator], stop: set[str]) -> list[Operator]:
    """Return the nearest operators with weights before a tensor, first inputs first."""
    found: list[Operator] = []
    pending, seen = [tensor], {tensor}
    while pending:
        operator = producers.get(pending.pop(0))
        if operator is None or operator.kind in _SHAPE_READERS or _layer(operator) in stop:
            continue
        if any(constant.role == "weight" for constant in operator.constants):
            found.append(operator)
            continue
        fresh = [number for number in operator.inputs if number not in seen]
        seen.update(fresh)
        pending.extend(fresh)
    return found


def _joined(parts: list[Operator], shape: tuple[int, ...]) -> Stored | None:
    """Put groups one after another; the copies of a depthwise convolution with a multiplier interleave."""
    stored = [constant.stored for part in parts for constant in part.constants if constant.role == "weight"]
    if len(stored) < 2 or sum(piece.values.size for piece in stored) != math.prod(shape):  # noqa: PLR2004  a split
        return None
    if len({piece.values.shape[1:] for piece in stored}) > 1:
        return None
    interleave = all("Depthwise" in part.kind for part in parts)
    stack = np.stack([piece.values for piece in stored], axis=1) if interleave else None
    values = np.concatenate([piece.values for piece in stored]) if stack is None else stack
    kinds = {piece.encoding for piece in stored}
    return dataclasses.replace(
        stored[0],
        values=values.reshape(shape),
        encoding="sparse" if "sparse" in kinds else "dense",
        stored_bytes=sum(piece.stored_bytes for piece in stored),
    )
