"""The code of an ML Program as plain records, with its constants decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdp_export.errors import FileError
from pdp_export.runtimes.coreml_proto import type_name
from pdp_export.runtimes.mil.constants import ConstantTable, name_of
from pdp_export.runtimes.mil.values import Constant, OpenWeights, shape_of

_OPSETS = {f"CoreML{number}": number for number in range(5, 10)}
"""CoreML5 is the opset of iOS 15, CoreML6 of iOS 16, and so on; CoreML9 is that of iOS 26."""
_DEEPEST = 50


@dataclass(frozen=True)
class Declared:
    """A value that the program declares: MIL's type name, and the shape with -1 for open sizes.

    `shape` is None for a tensor of unknown rank; `kind` is empty for what is no tensor (a list, a state's own type).
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    state: bool = False


@dataclass(frozen=True)
class Reference:
    """The name of a value that is computed at run time."""

    name: str


Argument = Reference | Constant


@dataclass(frozen=True)
class Operation:
    """One operator: its type, arguments by parameter (several for a variadic one), results and inner blocks."""

    kind: str
    arguments: Mapping[str, tuple[Argument, ...]]
    outputs: tuple[Declared, ...]
    blocks: tuple[Block, ...] = ()

    @property
    def name(self) -> str:
        """The name of its first result."""
        return self.outputs[0].name if self.outputs else f"({self.kind})"


@dataclass(frozen=True)
class Block:
    """Operators in order, the names they start from, and what they give back: names or constants."""

    inputs: tuple[Declared, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[tuple[str, Argument], ...]


@dataclass(frozen=True)
class Function:
    """One function: its block (the block's inputs are the function's) and the number of its opset (6 is iOS 16)."""

    block: Block
    opset: int


def read_function(program: Any, weights: OpenWeights, name: str = "main") -> Function:
    """Return one function of a ``MILSpec.Program`` message.

    Raises:
        FileError: when it is missing, damaged, or of an opset that is not known here.
    """
    if name not in program.functions:
        raise FileError(f"the program has no function {name!r}, only {sorted(program.functions)}", where=name)
    message = program.functions[name]
    if message.opset not in message.block_specializations:
        raise FileError(f"function {name!r} has no code for its opset {message.opset!r}", where=name)
    if message.opset not in _OPSETS:
        raise FileError(
            f"function {name!r} has opset {message.opset!r}; known are {', '.join(_OPSETS)}",
            where=name,
            hint="update pdp-export, or convert for an older deployment target",
        )
    inputs = tuple(_declared(item) for item in message.inputs)
    known = ConstantTable(weights)
    scope = {item.name for item in inputs}
    block = _block(message.block_specializations[message.opset], inputs, known, scope, depth=0)
    return Function(block, _OPSETS[message.opset])


def _block(message: Any, inputs: tuple[Declared, ...], known: ConstantTable, scope: set[str], *, depth: int) -> Block:
    if depth > _DEEPEST:
        raise FileError(f"the blocks of the program are nested more than {_DEEPEST} deep")
    inner = scope | {item.name for item in inputs}
    operations = []
    for item in message.operations:
        if known.read(item):
            continue
        blocks = tuple(
            _block(block, tuple(_declared(value) for value in block.inputs), known, inner, depth=depth + 1)
            for block in item.blocks
        )
        operations.append(_operation(item, blocks, known, inner))
        inner |= {output.name for output in item.outputs}
    outputs = tuple((name, _named(name, known, inner, "a block")) for name in message.outputs)
    return Block(inputs, tuple(operations), outputs)


def _operation(message: Any, blocks: tuple[Block, ...], known: ConstantTable, scope: set[str]) -> Operation:
    where = f"{name_of(message)} ({message.type})"
    arguments = {
        key: tuple(
            known.of_value(binding.value).values
            if binding.HasField("value")
            else _named(binding.name, known, scope, where)
            for binding in message.inputs[key].arguments
        )
        for key in message.inputs
    }
    for key in message.attributes:
        if key != "name" and key not in arguments:
            arguments[key] = (known.of_value(message.attributes[key]).values,)
    return Operation(str(message.type), arguments, tuple(_declared(item) for item in message.outputs), blocks)


def _named(name: str, known: ConstantTable, scope: set[str], where: str) -> Argument:
    if name in known.known:
        return known.known[name].values
    if name not in scope:
        raise FileError(f"{where} reads {name!r}, which nothing before it computes", where=where)
    return Reference(name)


def _declared(message: Any) -> Declared:
    kind = message.type.WhichOneof("type")
    state = kind == "stateType"
    value = message.type.stateType.wrappedType if state else message.type
    if value.WhichOneof("type") != "tensorType":
        return Declared(message.name, "", None, state)
    tensor = value.tensorType
    variadic = tensor.rank < 0 or any(size.unknown.variadic for size in tensor.dimensions)
    shape = None if variadic else shape_of(tensor)
    return Declared(message.name, type_name(tensor.dataType), shape, state)
