"""Finds and decodes every constant tensor of an ML Program, for reports and for the check of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pdp_export.errors import FileError
from pdp_export.runtimes.mil.constants import CONSTEXPR, ConstantTable, Known, name_of, worth_listing
from pdp_export.runtimes.mil.constexpr import FORMS
from pdp_export.runtimes.mil.values import OpenWeights
from pdp_export.runtimes.mil.weight_file import Array


@dataclass(frozen=True)
class StoredConstant:
    """One decoded constant; see `Known` for encoding, kind and bytes.

    `uses` is how many operator inputs read it: coremltools stores equal tensors once.
    """

    name: str
    values: Array
    encoding: str
    stored_kind: str
    stored_bytes: int
    uses: int = 1


@dataclass
class ProgramContents:
    """What the functions hold: their constants, operators by type, and constants left undecoded (name, operator)."""

    constants: list[StoredConstant] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    undecoded: list[tuple[str, str]] = field(default_factory=list)


def read_program(program: Any, weights: OpenWeights) -> ProgramContents:
    """Decode all functions of a ``MILSpec.Program`` message.

    Scalars, strings and small integer attributes (strides, axes) are parameters of operators and are
    left out; float vectors and everything in weight.bin are in. A constant that only serves another constant
    (a mask, a palette) is part of that one.

    Raises:
        FileError: for a constant whose bytes do not match its declared type and shape.
    """
    contents = ProgramContents()
    for function in program.functions.values():
        if function.opset not in function.block_specializations:
            raise FileError(f"a function of the program has no code for its opset {function.opset!r}")
        operations = list(_walk(function.block_specializations[function.opset]))
        _read_function(operations, weights, contents)
    return contents


def _read_function(operations: list[Any], weights: OpenWeights, contents: ProgramContents) -> None:
    table = ConstantTable(weights)
    uses, served = _uses(operations)
    for operation in operations:
        if operation.type != "const":
            contents.operators[operation.type] += 1
        if operation.type.startswith(CONSTEXPR) and operation.type not in FORMS:
            contents.undecoded.append((name_of(operation), operation.type))
            continue
        if table.read(operation):
            if operation.type == "const" and not worth_listing(operation.attributes["val"]):
                continue
            found = [(output.name, table.known[output.name]) for output in operation.outputs]
        else:
            found = list(_in_place(operation, table))
        for name, known in found:
            if isinstance(known.values, np.ndarray) and (uses[name] or not served[name]):
                contents.constants.append(_stored(name, known, max(uses[name], 1)))


def _stored(name: str, known: Known, uses: int) -> StoredConstant:
    values = np.asarray(known.values)
    return StoredConstant(name, values, known.encoding, known.stored_kind, known.stored_bytes, uses)


def _uses(operations: list[Any]) -> tuple[Counter[str], Counter[str]]:
    """Count the inputs that read each name: those of operators, and those of constants."""
    uses: Counter[str] = Counter()
    served: Counter[str] = Counter()
    for operation in operations:
        counted = served if operation.type.startswith(CONSTEXPR) else uses
        counted.update(argument.name for value in operation.inputs.values() for argument in value.arguments)
    return uses, served


def _in_place(operation: Any, table: ConstantTable) -> Iterator[tuple[str, Known]]:
    """Yield the values that are written directly into the inputs of an operator."""
    for key in sorted(operation.inputs):
        arguments = operation.inputs[key].arguments
        if len(arguments) == 1 and arguments[0].HasField("value") and worth_listing(arguments[0].value):
            yield f"{name_of(operation)}_{key}", table.of_value(arguments[0].value)


def _walk(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _walk(inner)
