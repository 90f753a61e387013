"""Finds and decodes every constant tensor of an ML Program.

A constant is a ``const`` operator (plain values) or a ``constexpr_sparse_to_dense`` operator (bit mask
and non-zero values). Its bytes are in weight.bin, or inside the program when it is small.
Other ``constexpr_*`` operators (palettes, integers with scales) are listed, not decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pdp_export.errors import FileError
from pdp_export.runtimes.coreml_proto import type_name
from pdp_export.runtimes.mil_weights import TYPES, Array, Blob, WeightFile

SPARSE = "constexpr_sparse_to_dense"
_FLOATS = ("FLOAT16", "FLOAT32")

# Opens a weight file by the name that the program uses for it.
OpenWeights = Callable[[str], WeightFile]


@dataclass(frozen=True)
class Constant:
    """One decoded constant; `stored_bytes` counts mask, records and padding.

    `uses` is how many operator inputs read it: coremltools stores equal tensors once.
    """

    name: str
    values: Array
    encoding: str
    stored_bytes: int
    uses: int = 1


@dataclass
class ProgramContents:
    """What a function holds: its constants, operators by type, and constants left undecoded (name, operator)."""

    constants: list[Constant] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    undecoded: list[tuple[str, str]] = field(default_factory=list)


def read_program(program: Any, weights: OpenWeights) -> ProgramContents:
    """Decode all functions of a ``MILSpec.Program`` message.

    Scalars, strings and small integer attributes (strides, axes) are parameters of operators and are
    left out; float vectors and everything in weight.bin are in.

    Raises:
        FileError: for a constant whose bytes do not match its declared type and shape.
    """
    contents = ProgramContents()
    uses: Counter[str] = Counter()
    for operation in _operations(program):
        uses.update(argument.name for value in operation.inputs.values() for argument in value.arguments)
        if operation.type != "const":
            contents.operators[operation.type] += 1
        if operation.type == SPARSE and all(_value(operation, key) is not None for key in ("nonzero_data", "mask")):
            contents.constants.append(_sparse(operation, weights))
        elif operation.type.startswith("constexpr_"):
            contents.undecoded.append((_name(operation), operation.type))
        else:
            contents.constants.extend(_dense(operation, weights))
    contents.constants = [replace(constant, uses=max(uses[constant.name], 1)) for constant in contents.constants]
    return contents


def shape_of(tensor_type: Any) -> tuple[int, ...]:
    """Return the shape of a MIL tensor type; a dimension that is open is -1."""
    return tuple(
        dimension.constant.size if dimension.HasField("constant") else -1 for dimension in tensor_type.dimensions
    )


def _operations(program: Any) -> Iterator[Any]:
    for function in program.functions.values():
        if function.opset not in function.block_specializations:
            raise FileError(f"a function of the program has no code for its opset {function.opset!r}")
        yield from _walk(function.block_specializations[function.opset])


def _walk(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _walk(inner)


def _name(operation: Any) -> str:
    return str(operation.outputs[0].name) if operation.outputs else "(unnamed)"


def _value(operation: Any, key: str) -> Any:
    """Return the value given directly to a parameter: as an attribute (iOS 16) or an inline argument (iOS 18)."""
    if key in operation.attributes:
        return operation.attributes[key]
    if key in operation.inputs and len(operation.inputs[key].arguments) == 1:
        argument = operation.inputs[key].arguments[0]
        return argument.value if argument.HasField("value") else None
    return None


def _dense(operation: Any, weights: OpenWeights) -> Iterator[Constant]:
    """Yield the value of a const operator, or the values written directly into the inputs of another operator."""
    keys = ["val"] if operation.type == "const" else sorted(operation.inputs)
    for key in keys:
        value = _value(operation, key)
        if value is None or not _is_tensor_worth_listing(value):
            continue
        blob = _blob(value, weights)
        name = _name(operation) if operation.type == "const" else f"{_name(operation)}_{key}"
        yield Constant(name, blob.tensor(_shape(value)), "dense", blob.stored_bytes)


def _is_tensor_worth_listing(value: Any) -> bool:
    if value.HasField("blobFileValue"):
        return True
    return _kind(value) in _FLOATS and bool(value.type.tensorType.dimensions)


def _sparse(operation: Any, weights: OpenWeights) -> Constant:
    """Scatter the non-zero values into the places whose mask bit is set, row-major."""
    name = _name(operation)
    if len(operation.outputs) != 1:
        raise FileError(f"{SPARSE} has {len(operation.outputs)} results; it should have one", where=name)
    output = operation.outputs[0]
    shape = _fixed(shape_of(output.type.tensorType))
    nonzero, mask = _value(operation, "nonzero_data"), _value(operation, "mask")
    value_blob, mask_blob = _blob(nonzero, weights), _blob(mask, weights)
    values, bits = value_blob.tensor(_shape(nonzero)), mask_blob.mask(shape)
    if _kind(nonzero) != type_name(output.type.tensorType.dataType):
        raise FileError(f"the sparse tensor {name!r} stores {_kind(nonzero)} and is declared otherwise", where=name)
    if _listed_shape(operation) not in (None, shape):
        raise FileError(f"the sparse tensor {name!r} lists another shape than its declared {list(shape)}", where=name)
    if int(bits.sum()) != values.size:
        raise FileError(
            f"the mask of {name!r} has {int(bits.sum())} bits set and {values.size} values are stored",
            where=name,
            hint="the file is damaged; write it again",
        )
    dense = np.zeros(shape, dtype=values.dtype)
    dense[bits] = values
    return Constant(name, dense, "sparse", value_blob.stored_bytes + mask_blob.stored_bytes)


def _listed_shape(operation: Any) -> tuple[int, ...] | None:
    """Return the ``shape`` attribute of the iOS 16 form; the iOS 18 form has none."""
    value = _value(operation, "shape")
    if value is None:
        return None
    raw = _immediate(value)
    return tuple(raw.view("<u4").tolist()) if raw.size % 4 == 0 else ()


def _blob(value: Any, weights: OpenWeights) -> Blob:
    kind = _kind(value)
    if kind not in TYPES:
        raise FileError(f"a constant of the program has type {kind}, which is not decoded here")
    if value.HasField("blobFileValue"):
        return weights(value.blobFileValue.fileName).blob(value.blobFileValue.offset, kind)
    data = _immediate(value)
    return Blob(kind, data, data.size, "the program")


def _immediate(value: Any) -> Array:
    """Return the raw bytes of a value written inside the program."""
    tensor = value.immediateValue.tensor
    if tensor.HasField("floats"):
        return np.array(tensor.floats.values, dtype="<f4").view(np.uint8)
    if tensor.HasField("bytes"):
        return np.frombuffer(tensor.bytes.values, dtype=np.uint8)
    raise FileError(f"a constant of the program has its {_kind(value)} values in a form that is not decoded here")


def _kind(value: Any) -> str:
    return type_name(value.type.tensorType.dataType)


def _shape(value: Any) -> tuple[int, ...]:
    return _fixed(shape_of(value.type.tensorType))


def _fixed(shape: tuple[int, ...]) -> tuple[int, ...]:
    if any(size < 0 for size in shape):
        raise FileError(f"a constant of the program has an open shape {list(shape)}")
    return shape
