"""Decoders of sparse weights, built from standard ONNX operators that every runtime knows.

The name of a weight becomes the output of a small constant sub-graph. ONNX Runtime folds it into the plain weight when
it loads the file, so the layer that uses the weight does not change. Every intermediate has a static shape: what has
none (NonZero, Compress) would not be folded.

    gap8      w = Reshape(ScatterElements(zeros, CumSum(Cast(gaps)), values), shape)
    bitmask   w = Reshape(Gather(values, max(0, CumSum(counts[mask]) + ranks[mask])), shape)

The tables `counts` and `ranks` are shared by all weights; the CumSum of the bitmask excludes the byte itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.encoding import bitmask, gap8
from pdp_export.errors import ConversionError

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Array = np.ndarray[Any, Any]


class Decoders:
    """Collects the constants and nodes that decode the weights of one graph."""

    def __init__(self, taken: set[str]) -> None:
        self.constants: dict[str, TensorProto] = {}
        self.nodes: list[NodeProto] = []
        self._taken = taken

    @property
    def nbytes(self) -> int:
        """Bytes of all constants and nodes in the file (each with its tag and length)."""
        items: list[TensorProto | NodeProto] = [*self.constants.values(), *self.nodes]
        return sum(framed_bytes(item) for item in items)

    def add(self, encoding: str, name: str, values: Array) -> None:
        """Encode a weight and make `name` the output of its decoder."""
        if encoding == "gap8":
            self._add_gap8(name, gap8.encode(values))
        else:
            self._add_bitmask(name, bitmask.encode(values))

    def _add_gap8(self, name: str, codes: gap8.Gap8) -> None:
        from onnx import TensorProto, helper, numpy_helper

        gaps, values = self._constant(f"{name}/gaps", codes.gaps), self._constant(f"{name}/values", codes.values)
        steps = self._node("Cast", [gaps], to=TensorProto.INT32)
        at = self._node("CumSum", [steps, self._axis()])
        zero = numpy_helper.from_array(np.zeros(1, codes.values.dtype))
        size = self._length(codes.shape)
        zeros = self._node("ConstantOfShape", [size], value=zero)
        flat = self._node("ScatterElements", [zeros, at, values], axis=0)
        self.nodes.append(helper.make_node("Reshape", [flat, self._shape(codes.shape)], [name]))

    def _add_bitmask(self, name: str, codes: bitmask.Bitmask) -> None:
        from onnx import TensorProto, helper

        counts, ranks, zero = self.tables()
        mask, values = self._constant(f"{name}/mask", codes.mask), self._constant(f"{name}/values", codes.values)
        index = self._node("Cast", [mask], to=TensorProto.INT32)  # (b,)
        count = self._node("Gather", [counts, index])  # (b,)
        before = self._node("CumSum", [count, self._axis()], exclusive=1)  # (b,)
        column = self._node("Unsqueeze", [before, self._one_axis()])  # (b, 1)
        within = self._node("Gather", [ranks, index])  # (b, 8)
        rank = self._node("Add", [column, within])  # (b, 8)
        at = self._node("Max", [rank, zero])  # (b, 8)
        gathered = self._node("Gather", [values, at])  # (b, 8)
        if _size(codes.shape) % 8:
            every = self._shared("pdp/shape/all", np.array([-1], np.int64))
            flat = self._node("Reshape", [gathered, every])  # (8 b,)
            start = self._shared("pdp/start", np.zeros(1, np.int64))
            size = self._length(codes.shape)
            gathered = self._node("Slice", [flat, start, size])  # (n,)
        self.nodes.append(helper.make_node("Reshape", [gathered, self._shape(codes.shape)], [name]))

    def tables(self) -> tuple[str, str, str]:
        """Return the names of counts (256,), ranks (256, 8) and 0, all int32, widened from one byte each."""
        from onnx import TensorProto

        zero = self._shared("pdp/zero", np.array(0, np.int32))
        known = [f"pdp/{name}" for name in ("counts", "ranks")]
        if f"{known[1]}/bytes" not in self.constants:
            counts = self._shared("pdp/counts/bytes", bitmask.count_table())
            ranks = self._shared("pdp/ranks/bytes", bitmask.rank_table())
            cleared = self._shared("pdp/cleared", np.array(bitmask.CLEARED_RANK, np.int32))
            self._node("Cast", [counts], known[0], to=TensorProto.INT32)
            wide = self._node("Cast", [ranks], "pdp/ranks/wide", to=TensorProto.INT32)
            is_set = self._node("Cast", [ranks], "pdp/ranks/set", to=TensorProto.BOOL)
            self._node("Where", [is_set, wide, cleared], known[1])
        return known[0], known[1], zero

    def _axis(self) -> str:
        return self._shared("pdp/axis0", np.array(0, np.int64))

    def _one_axis(self) -> str:
        return self._shared("pdp/axis1", np.array([1], np.int64))

    def _length(self, shape: Sequence[int]) -> str:
        return self._shared(f"pdp/size/{_size(shape)}", np.array([_size(shape)], np.int64))

    def _shape(self, shape: Sequence[int]) -> str:
        return self._shared(f"pdp/shape/{'x'.join(map(str, shape))}", np.array(shape, np.int64))

    def _shared(self, name: str, values: Array) -> str:
        return name if name in self.constants else self._constant(name, values)

    def _constant(self, name: str, values: Array) -> str:
        from onnx import numpy_helper

        self._claim(name)
        self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def _node(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Append a node; its output is numbered, since names are a good part of a small file."""
        from onnx import helper

        output = output or f"pdp/{len(self.nodes)}"
        self._claim(output)
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

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


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
