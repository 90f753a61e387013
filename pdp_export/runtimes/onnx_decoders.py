"""Finds the sub-graphs that decode a sparse weight, by their structure.

The forms, with c for a constant of the file:

    gap8      Reshape(ScatterElements(ConstantOfShape(c), CumSum(Cast(gaps), 0), values), c)
    bitmask   Reshape(Gather(values, Max(Add(Unsqueeze(CumSum(counts[m], 0)), ranks[m]), 0)), c), m = Cast(mask);
              with Slice(Reshape(., -1), 0, n) before the last Reshape where 8 does not divide n
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.encoding import bitmask

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

Array = np.ndarray[Any, Any]


class _Mismatch(Exception):  # noqa: N818  (control flow inside this module, not an error)
    """The node is not a decoder."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A weight behind a decoder; `codes` are the gaps or the mask, `payload` the names of codes and values."""

    name: str
    encoding: str
    codes: Array
    values: Array
    shape: tuple[int, ...]
    payload: tuple[str, str]


class Finder:
    """Matches decoders in one graph."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._producers = {name: node for node in graph.node for name in node.output}
        self._constants: dict[str, TensorProto] = {item.name: item for item in graph.initializer}
        self._members: set[str] = set()  # outputs of the nodes that belong to a decoder
        self._trail: list[NodeProto] = []

    def coded(self) -> list[Coded]:
        """Return every weight behind a decoder."""
        found = []
        for node in self._graph.node:
            if node.op_type == "Reshape":
                for match in (self._gap8, self._bitmask):
                    coded = self._try(match, node)
                    if coded is not None:
                        found.append(coded)
        return found

    def parts(self) -> set[str]:
        """Return the constants that only decoders use; call after `coded`."""
        inside: set[str] = set()
        outside = {value.name for value in self._graph.output}
        for node in self._graph.node:
            (inside if self._members.issuperset(node.output) else outside).update(node.input)
        return {name for name in inside - outside if name in self._constants}

    def array(self, name: str) -> Array:
        """Return a constant of the graph."""
        from onnx import numpy_helper

        if name not in self._constants:
            raise _Mismatch
        return numpy_helper.to_array(self._constants[name])

    def _try(self, match: Callable[[NodeProto], Coded], node: NodeProto) -> Coded | None:
        self._trail = [node]
        try:
            coded = match(node)
        except (_Mismatch, IndexError, ValueError, TypeError):  # a foreign node may lack inputs or hold text
            return None
        self._members.update(name for member in self._trail for name in member.output)
        return coded

    def _gap8(self, node: NodeProto) -> Coded:
        shape = self._shape(node)
        scatter = self._producer(node.input[0], "ScatterElements", axis=0)
        zeros = self._producer(scatter.input[0], "ConstantOfShape")
        at = self._producer(scatter.input[1], "CumSum")
        steps = self._producer(at.input[0], "Cast", to=_INT32)
        self._expect(at.input[1], 0)
        self._expect(zeros.input[0], math.prod(shape))
        fill = [_to_array(attribute.t) for attribute in zeros.attribute]
        gaps, values = self.array(steps.input[0]), self.array(scatter.input[2])
        _require(gaps.dtype == np.uint8 and all(not item.any() for item in fill))
        return Coded(node.output[0], "gap8", gaps, values, shape, (steps.input[0], scatter.input[2]))

    def _bitmask(self, node: NodeProto) -> Coded:
        shape = self._shape(node)
        gathered = node.input[0]
        if math.prod(shape) % 8:
            cut = self._producer(gathered, "Slice")
            self._expect(cut.input[1], 0)
            self._expect(cut.input[2], math.prod(shape))
            flat = self._producer(cut.input[0], "Reshape")
            self._expect(flat.input[1], -1)
            gathered = flat.input[0]
        gather = self._producer(gathered, "Gather")
        at = self._producer(gather.input[1], "Max")
        self._expect(at.input[1], 0)
        mask = self._rank(self._producer(at.input[0], "Add"))
        codes, values = self.array(mask), self.array(gather.input[0])
        _require(codes.dtype == np.uint8)
        return Coded(node.output[0], "bitmask", codes, values, shape, (mask, gather.input[0]))

    def _rank(self, add: NodeProto) -> str:
        """Match ``CumSum(counts[m])[:, None] + ranks[m]`` and return the name of the mask."""
        column = self._producer(add.input[0], "Unsqueeze")
        self._expect(column.input[1], 1)
        before = self._producer(column.input[0], "CumSum", exclusive=1)
        self._expect(before.input[1], 0)
        count = self._producer(before.input[0], "Gather")
        within = self._producer(add.input[1], "Gather")
        _require(count.input[1] == within.input[1])
        counts = self._producer(count.input[0], "Cast", to=_INT32)
        ranks = self._producer(within.input[0], "Where")
        is_set = self._producer(ranks.input[0], "Cast", to=_BOOL)
        wide = self._producer(ranks.input[1], "Cast", to=_INT32)
        _require(np.array_equal(self.array(counts.input[0]), bitmask.count_table()))
        _require(is_set.input[0] == wide.input[0] and np.array_equal(self.array(wide.input[0]), bitmask.rank_table()))
        self._expect(ranks.input[2], bitmask.CLEARED_RANK)
        return str(self._producer(count.input[1], "Cast", to=_INT32).input[0])

    def _producer(self, name: str, operator: str, **attributes: int) -> NodeProto:
        """Return the node that computes `name`, if it is that operator with exactly those integer attributes."""
        node: NodeProto | None = self._producers.get(name)
        if node is None or node.op_type != operator or node.domain not in ("", "ai.onnx"):
            raise _Mismatch
        if operator != "ConstantOfShape":
            _require({item.name: item.i for item in node.attribute} == attributes)
        self._trail.append(node)
        return node

    def _shape(self, node: NodeProto) -> tuple[int, ...]:
        shape = tuple(int(axis) for axis in self.array(node.input[1]).ravel())
        _require(min(shape, default=1) > 0)
        return shape

    def _expect(self, name: str, value: int) -> None:
        array = self.array(name)
        _require(array.size == 1 and int(array.reshape(-1)[0]) == value)


_INT32, _BOOL = 6, 9  # onnx.TensorProto.INT32 and BOOL


def _to_array(tensor: TensorProto) -> Array:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _require(condition: object) -> None:
    if not condition:
        raise _Mismatch
