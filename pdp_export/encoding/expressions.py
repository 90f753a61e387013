"""Decoders as data: expressions of standard ONNX operators over stored arrays and constants.

A codec says once how it is decoded. The converter writes the expression as nodes; the reader finds it again in a file
by comparing operators (`signature`) and then every constant. So both can never disagree about the form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Attribute = int | tuple[int, ...]

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}
"""Numbers of element types in ONNX, for the attribute ``to`` of Cast."""


@dataclass(frozen=True, eq=False)
class Payload:
    """An array that belongs to one tensor, by its role in `Code.arrays`."""

    role: str


@dataclass(frozen=True, eq=False)
class Constant:
    """An array that follows from sizes; `name` is that of the constant in a file, shared by all decoders.

    `role` names what the reader has to learn from the file ("shape").
    """

    name: str
    values: Array
    role: str = ""


@dataclass(frozen=True, eq=False)
class Step:
    """One operator. `fill` is the value of a ConstantOfShape; `name` that of a result which all decoders share."""

    operator: str
    inputs: tuple[Expression, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    fill: Array | None = None
    name: str = ""


Expression = Payload | Constant | Step


def step(operator: str, *inputs: Expression, name: str = "", **attributes: Attribute) -> Step:
    """Return one operator applied to its inputs."""
    return Step(operator, inputs, attributes, name=name)


def cast(value: Expression, dtype: str, name: str = "") -> Step:
    """Return the value in another dtype."""
    return step("Cast", value, name=name, to=TYPES[dtype])


def blank(size: int | tuple[int, ...], dtype: np.dtype[Any]) -> Step:
    """Return zeros of that size or shape."""
    shape = (size,) if isinstance(size, int) else size
    return Step("ConstantOfShape", (shape_constant(shape),), fill=np.zeros(1, dtype))


def shape_constant(shape: tuple[int, ...], role: str = "") -> Constant:
    """Return the constant that holds a shape."""
    return Constant(f"pdp/shape/{'x'.join(map(str, shape))}", np.array(shape, np.int64), role)


def scalar(value: int) -> Constant:
    """Return an int32 scalar."""
    return Constant(f"pdp/int/{value}", np.array(value, np.int32))


def axis(value: int) -> Constant:
    """Return an axis as CumSum wants it, an int64 scalar."""
    return Constant(f"pdp/axis{value}", np.array(value, np.int64))


def flatten(value: Expression) -> Step:
    """Return the value with one axis."""
    return step("Reshape", value, Constant("pdp/shape/all", np.array([-1], np.int64)))


def cut(value: Expression, start: int, stop: int) -> Step:
    """Return elements `start` to `stop` of a vector."""
    return step("Slice", value, shape_constant((start,)), shape_constant((stop,)))


def shaped(value: Expression, shape: tuple[int, ...]) -> Step:
    """Return the value in the shape of the tensor; where the reader learns that shape from."""
    return step("Reshape", value, shape_constant(shape, "shape"))


def scattered(positions: Expression, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Step:
    """Return zeros of `shape` with the stored values at flat positions."""
    return shaped(step("ScatterElements", blank(prod(shape), dtype), positions, Payload("values"), axis=0), shape)


def signature(expression: Expression) -> str:
    """Return operators and attributes as text; equal for two decoders that differ in constants and payload only."""
    if not isinstance(expression, Step):
        return "c"
    inputs = ",".join(signature(item) for item in expression.inputs)
    return operator_text(expression.operator, expression.attributes, inputs)


def operator_text(operator: str, attributes: Mapping[str, Attribute], inputs: str) -> str:
    """Return the text of one operator whose inputs are texts already."""
    details = ";".join(f"{name}={value}" for name, value in sorted(attributes.items()))
    return f"{operator}[{details}]({inputs})"


def leaves(expression: Expression) -> Iterator[Payload | Constant | Step]:
    """Yield payloads, constants and steps with a fill, in the order of a depth-first walk."""
    if not isinstance(expression, Step) or expression.fill is not None:
        yield expression
    if isinstance(expression, Step):
        for item in expression.inputs:
            yield from leaves(item)
