"""Runs one function of an ML Program with torch, operator by operator, in the order of the file.

Inside an operator everything is float32. In the mode "exact" each result that the program declares as FLOAT16 is
rounded to a half; in the mode "wide" it is not. Every result must have the declared type and shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from pdp_export.errors import FileError, NotRunnableError, PdpExportError, UsageError, first_line
from pdp_export.runtimes.mil import operators as _operators  # noqa: F401  registers all operators
from pdp_export.runtimes.mil.program import Argument, Block, Declared, Function, Operation, Reference
from pdp_export.runtimes.mil.registry import LARGEST_TENSOR, Operator, find
from pdp_export.runtimes.mil.types import HALF, carried

Mode = Literal["exact", "wide"]
Array = np.ndarray[Any, Any]
Values = dict[str, Any]
_MOST_ROUNDS = 100_000
_COND, _WHILE, _READ_STATE, _WRITE_STATE = "cond", "while_loop", "read_state", "write_state"
CONTROL = {_COND, _WHILE, _READ_STATE, _WRITE_STATE}


@dataclass(frozen=True)
class _Step:
    """One operator, bound: constants converted once, the names of the others, and which values are not needed after."""

    operation: Operation
    operator: Operator | None
    constants: Mapping[str, Any]
    computed: Mapping[str, tuple[Any, ...]]
    blocks: tuple[_Plan, ...]
    released: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """A block, ready to run."""

    inputs: tuple[Declared, ...]
    steps: tuple[_Step, ...]
    outputs: tuple[tuple[str, Any], ...]


class Interpreter:
    """A function, bound to the operators that compute it.

    Raises:
        NotRunnableError: for an operator or type that is not computed here.
        FileError: for arguments that an operator does not have.
    """

    def __init__(self, function: Function, mode: Mode = "exact") -> None:
        self._function = function
        self._rounds = mode == "exact"
        self._plan = self._bound(function.block)

    def run(self, inputs: Mapping[str, Array], states: dict[str, Array] | None = None) -> Values:
        """Run once and return every output by name: arrays, or what ``classify`` made.

        Args:
            inputs: By name, in any dtype that converts to the declared one.
            states: The states of a model that has some, by name; the run replaces them. Zeros where one is missing.

        Raises:
            UsageError: for an input that is missing or does not fit the program.
            FileError: when an operator contradicts its declaration or cannot be computed.
        """
        with torch.no_grad():
            held = {item.name: _State(item, states or {}) for item in self._plan.inputs if item.state}
            plain = {item.name: self._taken(item, inputs) for item in self._plan.inputs if not item.state}
            results = self._execute(self._plan, {**plain, **held})
        if states is not None:
            states.update({name: _given(state.value) for name, state in held.items()})
        names = [name for name, _ in self._plan.outputs]
        return {name: _given(value) for name, value in zip(names, results, strict=True)}

    def _taken(self, declared: Declared, inputs: Mapping[str, Array]) -> Any:
        if declared.name not in inputs:
            raise UsageError(f"input {declared.name!r} is missing", where=declared.name)
        array = np.ascontiguousarray(inputs[declared.name]).reshape(inputs[declared.name].shape)
        value = torch.from_numpy(array.copy()).to(carried(declared.kind))
        if not _fits(tuple(value.shape), declared.shape):
            raise UsageError(
                f"the program takes {list(declared.shape or ())} (-1 is open), the data has {list(value.shape)}",
                where=f"input {declared.name}",
            )
        return self._rounded(value, declared)

    def _bound(self, block: Block) -> _Plan:
        last = _last_uses(block)
        steps = tuple(self._step(operation, last.get(index, ())) for index, operation in enumerate(block.operations))
        return _Plan(block.inputs, steps, tuple((name, _converted(value)) for name, value in block.outputs))

    def _step(self, operation: Operation, released: tuple[str, ...]) -> _Step:
        where = f"{operation.name} ({operation.kind})"
        for output in operation.outputs:
            _check_declared(output, where)
        blocks = tuple(self._bound(block) for block in operation.blocks)
        given = {key: tuple(_converted(value) for value in values) for key, values in operation.arguments.items()}
        if operation.kind in CONTROL:
            return _Step(operation, None, {}, given, blocks, released)
        found = find(operation.kind, where)
        unknown = sorted(set(given) - set(found.conversions))
        missing = sorted(found.required - set(given))
        if unknown or missing:
            what = f"does not know {unknown}" if unknown else f"needs {missing}"
            raise FileError(f"the operator {operation.kind} {what}", where=where)
        fixed = {key: values for key, values in given.items() if not any(isinstance(v, Reference) for v in values)}
        with _told(where):
            constants = {key: found.conversions[key](values) for key, values in fixed.items()}
        if found.wants_opset:
            constants["opset"] = self._function.opset
        computed = {key: values for key, values in given.items() if key not in fixed}
        return _Step(operation, found, constants, computed, blocks, released)

    def _execute(self, plan: _Plan, values: Values) -> list[Any]:
        for step in plan.steps:
            results = self._compute(step, values)
            if len(results) != len(step.operation.outputs):
                raise FileError(
                    f"{step.operation.kind} gives {len(results)} results, {len(step.operation.outputs)} are declared",
                    where=step.operation.name,
                )
            for declared, result in zip(step.operation.outputs, results, strict=True):
                values[declared.name] = self._settled(result, declared, step.operation)
            for name in step.released:
                values.pop(name, None)
        return [_looked_up(value, values) for _, value in plan.outputs]

    def _compute(self, step: _Step, values: Values) -> Sequence[Any]:
        operation = step.operation
        where = f"{operation.name} ({operation.kind})"
        with _told(where):
            arguments = {key: tuple(_looked_up(item, values) for item in items) for key, items in step.computed.items()}
            if step.operator is None:
                return self._controlled(step, arguments, values)
            for key, items in arguments.items():
                arguments[key] = step.operator.conversions[key](items)
            result = step.operator.function(**step.constants, **arguments)
        return result if isinstance(result, tuple) else (result,)

    def _controlled(self, step: _Step, arguments: Mapping[str, tuple[Any, ...]], values: Values) -> Sequence[Any]:
        kind = step.operation.kind
        if kind == _READ_STATE:
            return (_state(arguments["input"]).value.clone(),)
        if kind == _WRITE_STATE:
            _state(arguments["input"]).value = arguments["data"][0].clone()
            return ()
        if kind == _COND:
            (chosen,) = arguments["pred"]
            return self._execute(step.blocks[0 if bool(chosen) else 1], dict(values))
        return self._looped(step.blocks, arguments["loop_vars"], values)

    def _looped(self, blocks: tuple[_Plan, ...], start: tuple[Any, ...], values: Values) -> Sequence[Any]:
        condition, body = blocks
        current: Sequence[Any] = start
        for _ in range(_MOST_ROUNDS):
            (more,) = self._execute(condition, self._scope(condition, current, values))
            if not bool(more):
                return current
            current = self._execute(body, self._scope(body, current, values))
        raise FileError(f"a loop of the program did not end within {_MOST_ROUNDS} rounds")

    @staticmethod
    def _scope(plan: _Plan, current: Sequence[Any], values: Values) -> Values:
        names = [item.name for item in plan.inputs]
        return {**values, **dict(zip(names, current, strict=True))}

    def _settled(self, value: Any, declared: Declared, operation: Operation) -> Any:
        """Check a result against its declaration and bring it to the carried type."""
        if not isinstance(value, torch.Tensor) or not declared.kind:
            return value
        where = f"{operation.name} ({operation.kind})"
        if not _fits(tuple(value.shape), declared.shape):
            raise FileError(
                f"the result {declared.name!r} has shape {list(value.shape)}, declared is {list(declared.shape or ())}",
                where=where,
                hint="the file is damaged or foreign; write it again",
            )
        wanted = carried(declared.kind)
        if value.dtype != wanted and _family(value.dtype) != _family(wanted):
            raise FileError(f"the result {declared.name!r} is {value.dtype}, declared is {declared.kind}", where=where)
        return self._rounded(value.to(wanted), declared)

    def _rounded(self, value: torch.Tensor, declared: Declared) -> torch.Tensor:
        return value.half().float() if self._rounds and declared.kind == HALF else value


class _State:
    """A state of the model: a tensor that operators read and replace."""

    def __init__(self, declared: Declared, states: Mapping[str, Array]) -> None:
        shape = tuple(max(size, 1) for size in declared.shape or ())
        given = states.get(declared.name)
        if given is not None and given.shape != shape:
            raise UsageError(f"state {declared.name!r} has shape {list(shape)}, given is {list(given.shape)}")
        start = torch.zeros(shape) if given is None else torch.from_numpy(np.array(given))
        self.value = start.to(carried(declared.kind))


class _told:  # noqa: N801  reads as a word in a with statement
    """Turns what torch or an operator raises into a FileError that names the operator."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PdpExportError):
            error.where = error.where or self._where
            return
        if isinstance(
            error, (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError)
        ):
            raise FileError(
                f"an operator of the program cannot be computed: {first_line(error)}",
                where=self._where,
                hint="the file is damaged or foreign, or the inputs do not fit it",
            ) from error


def _converted(value: Argument) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == np.float16:
        value = value.astype(np.float32)
    elif value.dtype == np.uint16:
        value = value.astype(np.int32)
    elif value.dtype in (np.uint32, np.uint64):
        value = value.astype(np.int64)
    return torch.from_numpy(np.array(value, order="C"))


def _looked_up(value: Any, values: Values) -> Any:
    return values[value.name] if isinstance(value, Reference) else value


def _last_uses(block: Block) -> dict[int, tuple[str, ...]]:
    """Return, per position, the values of this block that nothing reads afterwards."""
    own = {output.name for operation in block.operations for output in operation.outputs}
    kept = {value.name for _, value in block.outputs if isinstance(value, Reference)}
    last: dict[str, int] = {}
    for index, operation in enumerate(block.operations):
        last.update(dict.fromkeys((output.name for output in operation.outputs), index))
        last.update(dict.fromkeys(_read(operation) & own, index))
    grouped: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in kept:
            grouped.setdefault(index, []).append(name)
    return {index: tuple(names) for index, names in grouped.items()}


def _read(operation: Operation) -> set[str]:
    names = {item.name for items in operation.arguments.values() for item in items if isinstance(item, Reference)}
    for block in operation.blocks:
        names |= {value.name for _, value in block.outputs if isinstance(value, Reference)}
        for inner in block.operations:
            names |= _read(inner)
    return names


def _check_declared(declared: Declared, where: str) -> None:
    if not declared.kind or declared.kind == "STRING":
        return
    carried(declared.kind)
    if declared.shape is not None and all(size >= 0 for size in declared.shape):
        elements = int(np.prod(declared.shape, dtype=object)) if declared.shape else 1
        if elements > LARGEST_TENSOR:
            raise FileError(f"the program declares a result of {elements} elements", where=where)


def _fits(shape: tuple[int, ...], declared: tuple[int, ...] | None) -> bool:
    if declared is None:
        return True
    return len(shape) == len(declared) and all(d in (-1, s) for s, d in zip(shape, declared, strict=True))


def _family(dtype: torch.dtype) -> str:
    return "float" if dtype.is_floating_point else "bool" if dtype is torch.bool else "int"


def _state(values: tuple[Any, ...]) -> _State:
    (state,) = values
    if not isinstance(state, _State):
        raise NotRunnableError("an operator reads or writes a state that is none")
    return state


def _given(value: Any) -> Any:
    return value.contiguous().numpy().copy() if isinstance(value, torch.Tensor) else value
