"""The constants of one function of an ML Program by name, each decoded once, with how and where it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pdp_export.errors import FileError
from pdp_export.runtimes.coreml_proto import type_name
from pdp_export.runtimes.mil import constexpr
from pdp_export.runtimes.mil.values import Constant, OpenWeights, blob_of, decode, fixed_shape_of, kind_of, shape_of
from pdp_export.runtimes.mil.weight_file import TYPES, Array

CONSTEXPR = "constexpr_"
_FLOATS = ("FLOAT16", "FLOAT32")


@dataclass(frozen=True)
class Known:
    """One decoded constant.

    `encoding` names its form ("dense", "sparse", "int8", "palette4", "sparse+int8", ...), `stored_kind` MIL's type of
    the numbers that are stored, `stored_bytes` what they occupy with masks, scales, palettes, records and padding.
    """

    values: Constant
    encoding: str = "dense"
    stored_kind: str = ""
    stored_bytes: int = 0


class ConstantTable:
    """Reads ``const`` and ``constexpr_*`` operators in program order; each may use the results of earlier ones.

    Raises:
        FileError: for a constant whose bytes do not match what the program declares.
    """

    def __init__(self, weights: OpenWeights) -> None:
        self._weights = weights
        self.known: dict[str, Known] = {}

    def read(self, operation: Any) -> bool:
        """Add the results of a constant operator; return False for any other operator."""
        if operation.type == "const":
            self.known[_single_name(operation)] = self._constant(operation)
        elif operation.type.startswith(CONSTEXPR):
            self._constexpr(operation)
        else:
            return False
        return True

    def of_value(self, value: Any) -> Known:
        """Return a value that is written directly into the input of an operator."""
        kind = kind_of(value)
        values = decode(value, self._weights)
        stored = blob_of(value, self._weights).stored_bytes if kind in TYPES and isinstance(values, np.ndarray) else 0
        return Known(values, "dense", kind, stored)

    def _constant(self, operation: Any) -> Known:
        value = operation.attributes.get("val")
        if value is None and "val" in operation.inputs and len(operation.inputs["val"].arguments) == 1:
            value = operation.inputs["val"].arguments[0].value
        if value is None:
            raise FileError("a const operator has no value", where=name_of(operation))
        return self.of_value(value)

    def _constexpr(self, operation: Any) -> None:
        name = name_of(operation)
        arguments = {key: found for key in self._keys(operation) if (found := self._argument(operation, key))}
        results = constexpr.evaluate(operation.type, {k: item.values for k, item in arguments.items()}, name)
        if len(results) != len(operation.outputs):
            raise FileError(f"{operation.type} has {len(operation.outputs)} results, not {len(results)}", where=name)
        data = next((arguments[key] for key in _DATA if key in arguments), Known(np.zeros(0)))
        encoding = _encoding(operation.type, data)
        mask = arguments.get("indices_mask") or arguments.get("data_mask")
        for output, values in zip(operation.outputs, results, strict=True):
            _check_declared(output, values, name)
            is_mask = len(results) > 1 and values is results[0]
            stored = sum(item.stored_bytes for item in arguments.values() if (item is mask) == is_mask or mask is None)
            self.known[output.name] = Known(values, encoding, data.stored_kind, stored)

    @staticmethod
    def _keys(operation: Any) -> list[str]:
        return [key for key in (*operation.attributes, *operation.inputs) if key != "name"]

    def _argument(self, operation: Any, key: str) -> Known | None:
        """Return an argument: an attribute (iOS 16), a value in place, or the result of an earlier constant."""
        if key in operation.attributes:
            return self.of_value(operation.attributes[key])
        bindings = operation.inputs[key].arguments
        if len(bindings) != 1:
            return None
        if bindings[0].HasField("value"):
            return self.of_value(bindings[0].value)
        if bindings[0].name not in self.known:
            raise FileError(f"{operation.type} reads {bindings[0].name!r}, no constant", where=name_of(operation))
        return self.known[bindings[0].name]


_DATA = ("nonzero_data", "indices_nonzero_data", "indices", "data", "quantized_data", "source_val")


def _encoding(kind: str, data: Known) -> str:
    bits = TYPES[data.stored_kind].bits if data.stored_kind in TYPES else 0
    if kind == "constexpr_sparse_to_dense":
        return "sparse" if data.encoding == "dense" else f"sparse+{data.encoding}"
    if "lut" in kind:
        return f"palette{bits}" if kind == "constexpr_lut_to_sparse" or bits else "palette"
    if kind == "constexpr_cast":
        return "dense"
    prefix = "" if data.encoding == "dense" else f"{data.encoding}+"
    return f"{prefix}int{bits}"


def name_of(operation: Any) -> str:
    """Return the name of an operator's first result."""
    return str(operation.outputs[0].name) if operation.outputs else "(unnamed)"


def worth_listing(value: Any) -> bool:
    """Whether a constant is a weight rather than a parameter of an operator: in weight.bin, or a vector of floats."""
    return value.HasField("blobFileValue") or (kind_of(value) in _FLOATS and bool(fixed_shape_of(value)))


def _single_name(operation: Any) -> str:
    if len(operation.outputs) != 1:
        raise FileError(f"a {operation.type} operator has {len(operation.outputs)} results", where=name_of(operation))
    return name_of(operation)


def _check_declared(output: Any, values: Array, name: str) -> None:
    declared = shape_of(output.type.tensorType)
    kind = type_name(output.type.tensorType.dataType)
    if declared != values.shape:
        raise FileError(
            f"the constant {name!r} has shape {list(values.shape)} and is declared as {list(declared)}", where=name
        )
    stored = TYPES.get(kind)
    if stored is None or (stored.bits >= 8 and np.dtype(stored.dtype) != values.dtype):  # noqa: PLR2004  bits of a byte
        raise FileError(f"the constant {name!r} holds {values.dtype.name} and is declared as {kind}", where=name)
