"""Decodes the constants inside one operator of an .mnn file: weights in any storage form, biases, tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdp_export.runtimes.mnn_quantized import Stored, decode
from pdp_export.runtimes.mnn_schema import (
    DTYPES,
    INLINE_CONSTANTS,
    OPERATOR_NAMES,
    Blob,
    Common,
    Convolution,
    Main,
    Op,
    Quantized,
)
from pdp_export.runtimes.mnn_table import DamagedError, FlatTable

Array = np.ndarray[Any, Any]

_BLOB_FIELDS = {
    "float32": Blob.FLOAT32,
    "int32": Blob.INT32,
    "int64": Blob.INT64,
    "int8": Blob.INT8,
    "uint8": Blob.UINT8,
}


@dataclass(frozen=True)
class Constant:
    """One constant of an operator. `role` is "weight", "bias", "value" or the operator's own word.

    `stored` holds the decoded values, their encoding and the bytes they occupy; a weight is shaped
    (C_out, C_in/groups, kH, kW), of a transposed convolution (C_in, C_out/groups, kH, kW).
    """

    role: str
    stored: Stored


@dataclass(frozen=True)
class Undecoded:
    """The operator has constants in a form that this reader does not decode."""

    reason: str


def constants_of(operator: FlatTable) -> tuple[Constant, ...] | Undecoded:
    """Return the constants of an operator.

    Raises:
        DamagedError: sizes that contradict the operator's shape.
    """
    member, table = operator.number(Op.MAIN_TYPE, "uint8"), operator.child(Op.MAIN)
    if table is None:
        return ()
    if member == Main.CONVOLUTION:
        return _convolution(table, OPERATOR_NAMES.get(operator.number(Op.TYPE), ""))
    if member == Main.BLOB:
        return _blob(table)
    return tuple(
        Constant(role, Stored(view, "float32", "dense", view.nbytes))
        for field, role in INLINE_CONSTANTS.get(member, ())
        if (view := table.array(field, "float32")) is not None
    )


def _convolution(table: FlatTable, kind: str) -> tuple[Constant, ...] | Undecoded:
    common = table.child(Convolution.COMMON)
    if common is None:
        raise DamagedError("a convolution without parameters")
    external = table.array(Convolution.EXTERNAL, "int64")
    if external is not None and external.size:
        return Undecoded("weights are in a separate .weight file")
    stored = _weight(table)
    if isinstance(stored, Undecoded):
        return stored
    found = [] if stored is None else [Constant("weight", _shaped(stored, common, "Deconvolution" in kind))]
    bias = table.array(Convolution.BIAS, "float32")
    if bias is not None and bias.size:
        found.append(Constant("bias", Stored(bias, "float32", "dense", bias.nbytes)))
    return tuple(found)


def _weight(table: FlatTable) -> Stored | Undecoded | None:
    symmetric = table.child(Convolution.SYMMETRIC)
    if symmetric is not None and symmetric.array(0, "int8") is not None:
        return Undecoded("full-integer convolution")
    quantized = table.child(Convolution.QUANTIZED)
    if quantized is None:
        view = table.array(Convolution.WEIGHT, "float32")
        return None if view is None or not view.size else Stored(view, "float32", "dense", view.nbytes)
    if quantized.number(Quantized.SCALE_STORAGE, "int8"):
        return Undecoded("quantized weights with packed scales")
    return decode(quantized)


def _shaped(stored: Stored, common: FlatTable, transposed: bool) -> Stored:
    """Give a flat weight its four axes; MNN keeps PyTorch's order."""
    kernel = (common.number(Common.KERNEL_Y, default=1), common.number(Common.KERNEL_X, default=1))
    outputs, inputs = common.number(Common.OUTPUTS), common.number(Common.INPUTS)
    groups = common.number(Common.GROUP, default=1)
    first = inputs if transposed and inputs > 0 else outputs
    per_channel = first * kernel[0] * kernel[1]
    if min(first, groups, *kernel) < 1 or stored.values.size % per_channel:
        raise DamagedError(f"{stored.values.size} weights for {first} channels and a kernel of {kernel}")
    second = stored.values.size // per_channel
    claimed = (outputs if transposed else inputs) // groups
    if claimed > 0 and claimed != second:
        raise DamagedError(f"{stored.values.size} weights, but {first}x{claimed} channels and a kernel of {kernel}")
    return stored.with_values(stored.values.reshape(first, second, *kernel))


def _blob(table: FlatTable) -> tuple[Constant, ...] | Undecoded:
    external = table.array(Blob.EXTERNAL, "int64")
    if external is not None and external.size:
        return Undecoded("values are in a separate .weight file")
    dtype = DTYPES.get(table.number(Blob.DTYPE, default=1), "")
    if dtype not in _BLOB_FIELDS:
        return Undecoded(f"constant of data type {dtype or table.number(Blob.DTYPE)}")
    dims, view = table.array(Blob.DIMS, "int32"), table.array(_BLOB_FIELDS[dtype], dtype)
    if view is None:
        return ()
    shape = () if dims is None else tuple(int(size) for size in dims)
    if math.prod(shape) != view.size:
        raise DamagedError(f"{view.size} values for the shape {shape}")
    return (Constant("value", Stored(view.reshape(shape), dtype, "dense", view.nbytes)),)
