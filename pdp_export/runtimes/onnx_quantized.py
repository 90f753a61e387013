"""Which constants of an ONNX graph are integers with a scale (QuantizeLinear / DequantizeLinear form)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.machine import saturates_bytes

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

    from pdp_export.runtimes.onnx_constants import Constant

Array = np.ndarray[Any, Any]
_SCALED_INPUTS = 2
_SEVEN_BITS = 64
SATURATION = (
    "int8: this processor has no VNNI, so that ONNX Runtime adds two 8-bit products in 16 bits, which can overflow: "
    "parity and accuracy may be worse here than on phones; options: {reduce_range: true} avoids it with 7 bits"
)


def scales(graph: GraphProto, array: Callable[[str], Array | None]) -> dict[str, tuple[Array, int]]:
    """Return (scale, axis) of every tensor that a DequantizeLinear turns into floats with a zero point of 0.

    Args:
        graph: The graph.
        array: Gives a constant by name, or None.
    """
    found = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < _SCALED_INPUTS:
            continue
        scale = array(node.input[1])
        zero = array(node.input[2]) if len(node.input) > _SCALED_INPUTS and node.input[2] else None
        if scale is not None and (zero is None or not zero.any()):
            found[node.input[0]] = (scale, _axis(node))
    return found


def overflows(graph: GraphProto, constants: Iterable[Constant], array: Callable[[str], Array | None]) -> bool:
    """Tell whether this processor may overflow on a file's integers: weights beyond the 7 bits of `reduce_range`."""
    if not saturates_bytes():
        return False
    scaled = scales(graph, array)
    return any(
        item.values.ndim > 1
        and item.name in scaled
        and bool((np.abs(item.values.astype(np.int16)) > _SEVEN_BITS).any())
        for item in constants
    )


def broadcast(scale: Array, axis: int, rank: int) -> Array | None:
    """Return a scale per tensor or per channel in a shape that multiplies the tensor; None for another shape."""
    if scale.size == 1:
        return scale.reshape((1,) * rank)
    if scale.ndim != 1 or not -rank <= axis < rank:
        return None
    shape = [1] * rank
    shape[axis] = scale.size
    return scale.reshape(shape)


def _axis(node: NodeProto) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "axis"), 1)
