"""Decoders of sparse weights as ONNX nodes: the expressions of `pdp_export.encoding`, written down.

The name of a weight becomes the output of a small constant sub-graph of standard operators. ONNX Runtime folds it into
the plain weight when it loads the file, so the layer that uses the weight does not change. Every intermediate has a
static shape: what has none (NonZero, Compress) would not be folded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.encoding import codecs
from pdp_export.encoding.code import Code
from pdp_export.encoding.expressions import Constant, Expression, Payload, Step
from pdp_export.errors import ConversionError

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Array = np.ndarray[Any, Any]
SHARED = "pdp/"
"""Begin of the names of constants and results that the decoders of several weights use."""


class Decoders:
    """Collects the constants and nodes that decode the weights of one graph."""

    def __init__(self, taken: set[str]) -> None:
        self.constants: dict[str, TensorProto] = {}
        self.nodes: list[NodeProto] = []
        self._taken = taken
        self._shared: set[str] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of all constants and nodes in the file (each with its tag and length)."""
        items: list[TensorProto | NodeProto] = [*self.constants.values(), *self.nodes]
        return sum(framed_bytes(item) for item in items)

    def tables(self) -> dict[str, int]:
        """Return the bytes of every constant and node that is written once for all weights, by its name."""
        sizes = {name: framed_bytes(item) for name, item in self.constants.items() if name.startswith(SHARED)}
        for node in self.nodes:
            if node.output[0] in self._shared:
                sizes[node.output[0]] = framed_bytes(node)
        return sizes

    def add(self, name: str, code: Code, dtype: np.dtype[Any]) -> None:
        """Store a code and make `name` the output of its decoder, in `dtype`.

        Raises:
            ConversionError: for a tensor name that the decoder needs and the graph already uses.
        """
        root = codecs.graph(code, dtype)
        if isinstance(root, Payload):
            self._constant(name, code.arrays[root.role], claim=False)
            return
        self._write(root, name, code, {}, output=name)

    def _write(self, item: Expression, owner: str, code: Code, done: dict[int, str], output: str = "") -> str:
        """Return the name of the expression's value; what appears twice, or is shared, is written once."""
        if isinstance(item, Payload):
            name = f"{owner}/{item.role}"
            return name if name in self.constants else self._constant(name, code.arrays[item.role])
        if isinstance(item, Constant):
            return item.name if item.name in self.constants else self._constant(item.name, item.values)
        if item.name in self._shared:
            return item.name
        if id(item) not in done:
            inputs = [self._write(value, owner, code, done) for value in item.inputs]
            done[id(item)] = self._node(item, inputs, output)
        return done[id(item)]

    def _constant(self, name: str, values: Array, *, claim: bool = True) -> str:
        from onnx import numpy_helper

        if claim:
            self._claim(name)
        self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def _node(self, item: Step, inputs: list[str], output: str) -> str:
        """Append a node; its output is numbered, since names are a good part of a small file."""
        from onnx import helper, numpy_helper

        attributes: dict[str, Any] = dict(item.attributes)
        if item.fill is not None:
            attributes["value"] = numpy_helper.from_array(item.fill)
        name = output or item.name or f"{SHARED}{len(self.nodes)}"
        if not output:
            self._claim(name)
        if item.name:
            self._shared.add(name)
        self.nodes.append(helper.make_node(item.operator, inputs, [name], **attributes))
        return name

    def _claim(self, name: str) -> None:
        if name in self._taken:
            raise ConversionError(
                f"the graph already has a tensor {name!r}, which the sparse encoding needs",
                where=name,
                hint="rename that layer, or convert with encoding 'dense'",
            )
        self._taken.add(name)


def framed_bytes(item: TensorProto | NodeProto) -> int:
    """Return the bytes of a protobuf message inside its parent: one for the tag, some for the length, the message."""
    size: int = item.ByteSize()
    return 1 + (max(size.bit_length(), 1) + 6) // 7 + size
