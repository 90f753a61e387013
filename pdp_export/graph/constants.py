"""Finds channels that are one constant for every input, position and sample: zero above all.

A filter without weights emits its bias; BatchNorm and activations turn that into another constant.
Values are float64 vectors along the channel axis, with NaN for a channel that depends on the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import getitem
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from pdp_export.graph import operators as families
from pdp_export.graph.nodes import (
    BATCH_NORM,
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    argument,
    aten,
    has_argument,
    is_padded,
    is_tensor,
    operator,
    shape,
    tensor_of,
)
from pdp_export.graph.slots import Channels
from pdp_export.graph.tracing import Trace

Vector = NDArray[np.float64]
Lookup = Callable[[str], Tensor]
"""From a fully qualified name to the tensor whose values count."""


@dataclass
class Constants:
    """The constants of every tensor whose channels are followed, aligned with its slots."""

    trace: Trace
    lookup: Lookup
    values: dict[Node, Vector] = field(default_factory=dict)

    def of(self, source: Any) -> Vector:
        """Return the vector of a followed tensor."""
        return self.values[source]

    def read_by(self, node: Node) -> Vector:
        """Return the constants of what a layer reads, one per input channel; NaN where it was not followed."""
        source, weight = argument(node, "input"), argument(node, "weight")
        transposed = operator(node) in TRANSPOSED_CONVOLUTIONS
        count = tensor_of(self.trace.module, str(weight.target)).shape[0 if transposed else 1]
        if operator(node) is not aten.linear:
            count *= argument(node, "groups")
        known = self.trace.channels(source) is not None and len(self.values[source]) == count
        return self.values[source] if known else np.full(count, np.nan)


def channel_constants(trace: Trace, lookup: Lookup | None = None) -> Constants:
    """Propagate constants through the program.

    Args:
        trace: Where channels flow.
        lookup: Which tensors to assume; by default those of the module.
    """
    state = Constants(trace, lookup or (lambda name: tensor_of(trace.module, name)))
    for node in trace.flows:
        channels = trace.channels(node)
        if channels is not None:
            vector = _values(state, node, channels)
            state.values[node] = np.where(np.isfinite(vector), vector, np.nan)
    return state


def _values(state: Constants, node: Node, channels: Channels) -> Vector:
    if channels.source is not None and channels.index is not None:
        return state.of(channels.source)[channels.index]
    kind = operator(node.all_input_nodes[0] if node.target is getitem else node)
    rule = _RULES.get(kind)
    return rule(state, node, channels) if rule is not None else np.full(len(channels.slots), np.nan)


def _same(state: Constants, node: Node, channels: Channels) -> Vector:
    del channels
    return state.of(node.args[0])


def _layer(state: Constants, node: Node, channels: Channels) -> Vector:
    """A filter is constant where it only reads constants: zeros anywhere, other constants without padding."""
    weight = state.lookup(str(argument(node, "weight").target)).detach().double()
    if operator(node) in TRANSPOSED_CONVOLUTIONS:
        weight = weight.transpose(0, 1)
    lines = weight.reshape(*weight.shape[:2], -1)  # (C_out, C_in / groups, rest)
    touched, total = (lines != 0).any(2).numpy(), lines.sum(2).numpy()
    read = state.read_by(node)
    varies = np.isnan(read) | ((read != 0) & is_padded(node))
    known = np.nan_to_num(np.where(varies, 0.0, read))
    if len(read) == touched.shape[1]:
        live, result = (touched & varies).any(1), total @ known
    else:  # depthwise: output j reads input j // m
        times = len(channels.slots) // len(read)
        live, result = touched[:, 0] & np.repeat(varies, times), total[:, 0] * np.repeat(known, times)
    bias = argument(node, "bias")
    if bias is not None:
        result = result + state.lookup(str(bias.target)).detach().double().numpy()
    return np.where(live, np.nan, result)


def _batch_norm(state: Constants, node: Node, channels: Channels) -> Vector:
    del channels
    norm = node.all_input_nodes[0]
    weight, bias, mean, variance = (
        None if item is None else state.lookup(str(cast(Node, item).target)).detach().double()
        for item in norm.args[1:5]
    )
    source = torch.from_numpy(state.of(norm.args[0]))
    result = torch.nn.functional.batch_norm(source[None], mean, variance, weight, bias, eps=argument(norm, "eps"))[0]
    if weight is not None and bias is not None:
        result = torch.where(weight == 0, bias, result)
    return cast(Vector, result.numpy())


def _spatial(state: Constants, node: Node, channels: Channels) -> Vector:
    """Zeros stay zeros; another constant only where nothing is padded, summed or divided."""
    del channels
    source = state.of(node.args[0])
    changes = operator(node) is aten.sum
    changes |= has_argument(node, "padding") and bool(np.any(argument(node, "padding")))
    changes |= has_argument(node, "divisor_override") and argument(node, "divisor_override") is not None
    return np.where(source == 0, source, np.nan) if changes else source


def _padding(state: Constants, node: Node, channels: Channels) -> Vector:
    """A constant that equals the fill stays one; other modes repeat what is there."""
    del channels
    source = state.of(node.args[0])
    if has_argument(node, "mode") and argument(node, "mode") != "constant":
        return source
    return np.where(source == (argument(node, "value") or 0), source, np.nan)


def _elementwise(state: Constants, node: Node, channels: Channels) -> Vector:
    """Run the operator itself on the vectors; zero times anything finite is zero."""
    infinite = np.zeros(len(channels.slots), dtype=bool)
    live = np.zeros(len(channels.slots), dtype=bool)
    zero = np.zeros(len(channels.slots), dtype=bool)

    def vector(item: Any) -> Any:
        if not isinstance(item, Node):
            return item
        found = _operand(state, item, channels.axis - len(shape(node)), len(channels.slots))
        np.logical_or(live, ~np.isfinite(found), out=live)
        np.logical_or(infinite, np.isinf(found), out=infinite)
        np.logical_or(zero, found == 0, out=zero)
        return torch.from_numpy(np.nan_to_num(found))

    function = cast(Callable[..., Tensor], node.target)
    result = function(*map_aggregate(node.args, vector), **map_aggregate(node.kwargs, vector)).double().numpy()
    result = np.where(live, np.nan, result)
    return np.where(zero & ~infinite, 0.0, result) if operator(node) is aten.mul else result


def _operand(state: Constants, item: Node, axis: int, count: int) -> Vector:
    """Return the values of one operand along the channel axis (counted from the end)."""
    channels = state.trace.channels(item)
    if channels is not None and len(channels.slots) == count and channels.axis - len(shape(item)) == axis:
        return state.of(item)
    if item.op != "get_attr" or not is_tensor(item):
        return np.full(count, np.nan)
    tensor = state.lookup(str(item.target)).detach().double()
    if tensor.dim() < -axis:
        tensor = tensor.reshape(*[1] * (-axis - tensor.dim()), *tensor.shape)
    lines = tensor.movedim(axis, 0).flatten(1)  # (C or 1, rest)
    same = (lines == lines[:, :1]).all(1)
    return np.broadcast_to(torch.where(same, lines[:, 0], torch.nan).numpy(), (count,)).copy()


def _concatenation(state: Constants, node: Node, channels: Channels) -> Vector:
    sources = list(argument(node, "tensors"))
    sizes = [shape(source)[channels.axis] for source in sources]
    parts = [state.values.get(source, np.full(size, np.nan)) for source, size in zip(sources, sizes, strict=True)]
    if argument(node, "dim") % len(shape(node)) == channels.axis:
        return np.concatenate(parts)
    return np.where(np.all([part == parts[0] for part in parts], axis=0), parts[0], np.nan)


_RULES: dict[object, Callable[[Constants, Node, Channels], Vector]] = {
    **dict.fromkeys(CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | {aten.linear}, _layer),
    BATCH_NORM: _batch_norm,
    **dict.fromkeys(families.IDENTITY, _same),
    **dict.fromkeys(families.UNARY | families.BINARY, _elementwise),
    **dict.fromkeys(set(families.SPATIAL) | families.REDUCTIONS, _spatial),
    **dict.fromkeys(families.PADDING, _padding),
    aten.cat: _concatenation,
}
