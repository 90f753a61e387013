"""Parses an .mnn file into operators and their decoded constants, without MNN's own (native) reader."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pdp_export.errors import FileError
from pdp_export.results import Layout, TensorSpec
from pdp_export.runtimes.mnn_constants import Constant, Undecoded, constants_of
from pdp_export.runtimes.mnn_schema import DTYPES, LAYOUT_NHWC, OPERATOR_NAMES, Input, Main, Net, Op
from pdp_export.runtimes.mnn_table import DamagedError, FlatTable, refuse_damage

_IMAGE_RANK = 4


@dataclass(frozen=True)
class Operator:
    """One operator: inputs and outputs are tensor numbers, `kind` is MNN's own name for it."""

    name: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[Constant, ...]
    undecoded: str


@dataclass(frozen=True)
class MnnNet:
    """The content of a file. Dynamic axes are not marked in the format: MNN stores an example size."""

    label: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    tensors: tuple[str, ...]
    operators: tuple[Operator, ...]

    def operator_counts(self) -> dict[str, int]:
        """Return how many operators of each kind there are."""
        return dict(sorted(Counter(operator.kind for operator in self.operators).items()))


def read(path: Path) -> MnnNet:
    """Read and check a file: every offset, tensor number, and the size of every weight.

    Raises:
        FileError: for a missing, truncated, damaged or foreign file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path.name} cannot be read: {error.strerror}", where=path.name) from error
    with refuse_damage(path.name):
        return _net(data)


def _net(data: bytes) -> MnnNet:
    root = FlatTable.root(data)
    tensors = tuple(root.texts(Net.TENSOR_NAMES))
    tables = root.children(Net.OPERATORS)
    operators = tuple(_operator(table, len(tensors)) for table in tables)
    inputs = tuple(_input(table) for table in tables if _kind(table) == "Input")
    outputs = tuple(root.texts(Net.OUTPUT_NAMES)) or _dangling(operators, tensors)
    if not inputs or not outputs:
        raise DamagedError(f"{len(operators)} operators, {len(inputs)} inputs, {len(outputs)} outputs")
    return MnnNet(root.text(Net.BIZ_CODE), inputs, outputs, tensors, operators)


def _operator(table: FlatTable, tensors: int) -> Operator:
    name, kind = table.text(Op.NAME), _kind(table)
    try:
        found = constants_of(table)
        constants, undecoded = (found, "") if not isinstance(found, Undecoded) else ((), found.reason)
    except DamagedError as error:
        raise DamagedError(f"operator {name!r} ({kind}): {error}") from error
    return Operator(
        name, kind, _numbers(table, Op.INPUTS, tensors), _numbers(table, Op.OUTPUTS, tensors), constants, undecoded
    )


def _kind(table: FlatTable) -> str:
    number = table.number(Op.TYPE)
    if number not in OPERATOR_NAMES:
        raise DamagedError(f"operator type {number} is unknown")
    return OPERATOR_NAMES[number]


def _numbers(table: FlatTable, field: Op, limit: int) -> tuple[int, ...]:
    view = table.array(field, "int32")
    numbers = () if view is None else tuple(int(number) for number in view)
    if any(not 0 <= number < limit for number in numbers):
        raise DamagedError(f"tensor numbers {numbers} with {limit} tensors")
    return numbers


def _input(table: FlatTable) -> TensorSpec:
    parameter = table.child(Op.MAIN)
    if parameter is None or table.number(Op.MAIN_TYPE, "uint8") != Main.INPUT:
        raise DamagedError("an input without a shape")
    dims = parameter.array(Input.DIMS, "int32")
    shape = () if dims is None else tuple(max(1, int(size)) for size in dims)
    dtype = DTYPES.get(parameter.number(Input.DTYPE, default=1))
    if dtype is None:
        raise DamagedError(f"an input of data type {parameter.number(Input.DTYPE)}")
    image: Layout = "NHWC" if parameter.number(Input.FORMAT, "int8", 2) == LAYOUT_NHWC else "NCHW"
    return TensorSpec(
        name=table.text(Op.NAME), shape=shape, dtype=dtype, layout=image if len(shape) == _IMAGE_RANK else "any"
    )


def _dangling(operators: tuple[Operator, ...], tensors: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tensors nobody reads: the outputs of a file that does not name any."""
    read = {number for operator in operators for number in operator.inputs}
    return tuple(tensors[n] for operator in operators for n in operator.outputs if n not in read)
