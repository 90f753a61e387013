"""Finds the sub-graphs that decode a sparse weight, by their structure alone, never by names.

Every codec says what its decoder looks like (`encoding.expressions`). A node whose operators and attributes agree with
one of those forms is a decoder only if all constants do too: then its meaning is that of the codec. Anything else
stays what it is, nodes and plain constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.encoding import codecs
from pdp_export.encoding.code import Code
from pdp_export.encoding.expressions import Constant, Expression, Payload, Step, leaves, operator_text, signature

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

Array = np.ndarray[Any, Any]

_DEPTH = 24
"""Operators in a row that a decoder has at most; a longer chain is none."""
_ROOTS = ("Reshape", "Transpose", "Cast")
_HALF = np.dtype(np.float16)


class _Mismatch(Exception):  # noqa: N818  (control flow inside this module, not an error)
    """The node is not a decoder."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A weight behind a decoder; `payload` are the names of the constants that belong to it alone."""

    name: str
    code: Code
    dtype: np.dtype[Any]
    payload: tuple[str, ...]


class Finder:
    """Matches decoders in one graph."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._producers = {name: node for node in graph.node for name in node.output}
        self._constants: dict[str, TensorProto] = {item.name: item for item in graph.initializer}
        self._members: set[str] = set()  # outputs of the nodes that belong to a decoder

    def coded(self) -> list[Coded]:
        """Return every weight behind a decoder."""
        found = [pair for node in self._graph.node if node.op_type in _ROOTS for pair in self._try(node)]
        inner = {name for coded, members in found for name in members if name != coded.name}
        whole = [(coded, members) for coded, members in found if coded.name not in inner]
        self._members = {name for _, members in whole for name in members}
        return [coded for coded, _ in whole]

    def parts(self) -> set[str]:
        """Return the constants that only decoders use; call after `coded`."""
        inside: set[str] = set()
        outside = {value.name for value in self._graph.output}
        for node in self._graph.node:
            (inside if self._members.issuperset(node.output) else outside).update(node.input)
        return {name for name in inside - outside if name in self._constants}

    def __contains__(self, name: str) -> bool:
        return name in self._constants

    def is_member(self, node: NodeProto) -> bool:
        """Whether a node belongs to a decoder; call after `coded`."""
        return self._members.issuperset(node.output)

    def array(self, name: str) -> Array:
        """Return a constant of the graph."""
        from onnx import numpy_helper

        if name not in self._constants:
            raise _Mismatch
        return numpy_helper.to_array(self._constants[name])

    def _try(self, node: NodeProto) -> Iterator[tuple[Coded, set[str]]]:
        found: list[str | Step] = []
        members: set[str] = set()
        try:
            text = self._walk(node.output[0], found, members, _DEPTH)
        except (_Mismatch, IndexError, ValueError, TypeError):  # a foreign node may lack inputs or hold text
            return
        for expression, sample, dtype in _forms().get(text, ()):
            try:
                coded = self._bound(node.output[0], expression, sample, dtype, found)
            except (_Mismatch, IndexError, ValueError, TypeError):
                continue
            yield coded, members
            return

    def _walk(self, name: str, found: list[str | Step], members: set[str], depth: int) -> str:
        """Return the signature of what computes `name`, and collect its leaves as `leaves` does."""
        node = self._producers.get(name)
        if node is None:
            if name not in self._constants:
                raise _Mismatch
            found.append(name)
            return "c"
        if not depth or node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            raise _Mismatch
        attributes = {item.name: _attribute(item) for item in node.attribute if item.name != "value"}
        fills = [_to_array(item.t) for item in node.attribute if item.name == "value"]
        if node.op_type == "ConstantOfShape":
            found.append(Step(node.op_type, (), fill=fills[0] if fills else np.zeros(1, np.float32)))
        elif fills:
            raise _Mismatch
        members.add(name)
        inputs = ",".join(self._walk(item, found, members, depth - 1) for item in node.input)
        return operator_text(node.op_type, attributes, inputs)

    def _bound(
        self, name: str, expression: Expression, sample: Code, dtype: np.dtype[Any], found: list[str | Step]
    ) -> Coded:
        """Bind payload and constants of a form to those of the file, then compare with the form that they give."""
        payload: dict[str, str] = {}
        constants: dict[str, Array] = {}
        for leaf, item in zip(leaves(expression), found, strict=True):
            if isinstance(leaf, Payload):
                _require(payload.setdefault(leaf.role, str(item)) == item)
            elif isinstance(leaf, Constant) and leaf.role:
                constants[leaf.role] = self.array(str(item))
        arrays = {role: self.array(constant) for role, constant in payload.items()}
        dtype = dtype if sample.arrays["values"].dtype == _HALF else arrays["values"].dtype
        code = codecs.CODECS[sample.encoding].rebuild(sample, arrays, constants)
        for leaf, item in zip(leaves(codecs.graph(code, dtype)), found, strict=True):
            if isinstance(leaf, Constant):
                _require(_same(leaf.values, self.array(str(item))))
            elif isinstance(leaf, Step):
                _require(isinstance(item, Step) and _same(leaf.fill, item.fill))
        return Coded(name, code, dtype, tuple(payload.values()))


@cache
def _forms() -> dict[str, list[tuple[Expression, Code, np.dtype[Any]]]]:
    """Return every form of every decoder by its signature, with and without values that are widened."""
    forms: dict[str, list[tuple[Expression, Code, np.dtype[Any]]]] = {}
    single = np.dtype(np.float32)
    for codec in codecs.CODECS.values():
        for sample in codec.samples():
            half = Code(
                sample.encoding,
                {**sample.arrays, "values": sample.arrays["values"].astype(_HALF)},
                sample.shape,
                sample.parameters,
            )
            for code in (sample, half):
                expression = codecs.graph(code, single)
                if isinstance(expression, Step):
                    forms.setdefault(signature(expression), []).append((expression, code, single))
    return forms


def _attribute(item: Any) -> int | tuple[int, ...]:
    from onnx import AttributeProto

    if item.type == AttributeProto.INTS:
        return tuple(item.ints)
    _require(item.type == AttributeProto.INT)
    return int(item.i)


def _to_array(tensor: TensorProto) -> Array:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _same(expected: Array | None, got: Array | None) -> bool:
    if expected is None or got is None:
        return False
    return expected.dtype == got.dtype and expected.shape == got.shape and expected.tobytes() == got.tobytes()


def _require(condition: object) -> None:
    if not condition:
        raise _Mismatch
