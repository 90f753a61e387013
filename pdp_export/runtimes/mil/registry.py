"""The table of operators: one Python function per MIL operator, its keyword arguments named as MIL names them.

The annotations are the interface: an argument annotated ``int`` arrives as a number, ``tuple[int, ...]`` as a tuple,
``Tensor`` as a tensor, whether the program holds it as a constant or computes it. Defaults are MIL's.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from pdp_export.errors import FileError, NotRunnableError

Function = Callable[..., Any]
Registered = TypeVar("Registered", bound=Function)
LARGEST_TENSOR = 1 << 28
"""Elements that one value may have: a damaged file must not ask for the whole memory."""
IOS16, IOS17, IOS18 = 6, 7, 8

OPERATORS: dict[str, Operator] = {}


@dataclass(frozen=True)
class Operator:
    """A registered operator: how to convert each argument, which ones must be there, and whether it asks its opset."""

    name: str
    function: Function
    conversions: Mapping[str, Callable[[tuple[Any, ...]], Any]]
    required: frozenset[str]
    wants_opset: bool


def operator(*names: str) -> Callable[[Registered], Registered]:
    """Register a function under MIL's name of an operator (or several that mean the same)."""

    def register(function: Registered) -> Registered:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function)
        conversions = {key: _CONVERSIONS[hints[key]] for key in signature.parameters if key != "opset"}
        required = frozenset(
            key for key, parameter in signature.parameters.items() if parameter.default is inspect.Parameter.empty
        )
        for name in names:
            wants = "opset" in signature.parameters
            OPERATORS[name] = Operator(name, function, conversions, required - {"opset"}, wants)
        return function

    return register


def elementwise(name: str, function: Callable[..., Tensor], *parameters: str) -> None:
    """Register a function of torch whose positional arguments are the tensors `parameters`."""

    def call(**arguments: Tensor) -> Tensor:
        return function(*(arguments[key] for key in parameters))

    OPERATORS[name] = Operator(name, call, dict.fromkeys(parameters, _tensor), frozenset(parameters), False)


def find(name: str, where: str) -> Operator:
    """Return an operator by MIL's name.

    Raises:
        NotRunnableError: for one that is not implemented here.
    """
    if name not in OPERATORS:
        raise NotRunnableError(
            f"the interpreter has no operator {name!r} of MIL",
            where=where,
            hint="run the same validation on a Mac; stored weights are checked here all the same",
        )
    return OPERATORS[name]


def check_size(shape: Iterable[int]) -> None:
    """Raise FileError before an operator makes a tensor of more than `LARGEST_TENSOR` elements, or a negative size."""
    sizes = list(shape)
    if any(size < 0 for size in sizes) or math.prod(sizes) > LARGEST_TENSOR:
        raise FileError(f"an operator asks for a tensor {sizes}; at most {LARGEST_TENSOR} elements are computed here")


def undocumented(what: str) -> NotRunnableError:
    """Return the error for a case whose meaning Apple's documentation leaves open: refused rather than guessed."""
    return NotRunnableError(
        f"{what} is not defined by the documentation of MIL, so it is not computed here", hint="run this file on a Mac"
    )


def _one(values: tuple[Any, ...]) -> Any:
    if len(values) != 1:
        raise ValueError(f"{len(values)} values where one is expected")
    return values[0]


def _tensor(values: tuple[Any, ...]) -> Tensor:
    value = _one(values)
    if not isinstance(value, Tensor):
        raise TypeError(f"{type(value).__name__} where a tensor is expected")
    return value


def _tensors(values: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(_tensor((value,)) for value in values)


def _number(values: tuple[Any, ...]) -> Any:
    tensor = _tensor(values)
    if tensor.numel() != 1:
        raise ValueError(f"{tensor.numel()} numbers where one is expected")
    return tensor.item()


def _int(values: tuple[Any, ...]) -> int:
    number = _number(values)
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{number!r} where an integer is expected")
    return number


def _ints(values: tuple[Any, ...]) -> tuple[int, ...]:
    tensors = _tensors(values)
    if any(tensor.is_floating_point() for tensor in tensors):
        raise TypeError("fractions where integers are expected")
    return tuple(int(number) for tensor in tensors for number in tensor.reshape(-1).tolist())


def _bools(values: tuple[Any, ...]) -> tuple[bool, ...]:
    return tuple(bool(number) for tensor in _tensors(values) for number in tensor.reshape(-1).tolist())


def _text(values: tuple[Any, ...]) -> str:
    value = _one(values)
    if not isinstance(value, str):
        raise TypeError("a tensor where a text is expected")
    return value


_PLAIN: dict[Any, Callable[[tuple[Any, ...]], Any]] = {
    Tensor: _tensor,
    tuple[Tensor, ...]: _tensors,
    int: _int,
    float: lambda values: float(_number(values)),
    bool: lambda values: bool(_number(values)),
    str: _text,
    tuple[int, ...]: _ints,
    tuple[bool, ...]: _bools,
    tuple[Any, ...]: tuple,
    Any: _one,
}
_CONVERSIONS: dict[Any, Callable[[tuple[Any, ...]], Any]] = {
    **_PLAIN,
    **{kind | None: conversion for kind, conversion in _PLAIN.items() if kind is not Any},
}
