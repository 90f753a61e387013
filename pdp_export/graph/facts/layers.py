"""Transfer rules for layers with weights: convolutions, linear, embedding, BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.fx import Node

from pdp_export.graph.facts import grids
from pdp_export.graph.facts.facts import Facts, Grid, Transfer, everything
from pdp_export.graph.nodes import TRANSPOSED_CONVOLUTIONS, argument, aten, is_padded, operator, shape


@dataclass(frozen=True)
class Kernel:
    """A layer's weight as (groups, C_out / groups, C_in / groups, taps), and the axes that it reads and makes."""

    lines: Tensor
    source: Node
    reads: int
    makes: int

    @property
    def touched(self) -> Tensor:
        """Where any tap is not zero, (groups, C_out / groups, C_in / groups)."""
        return (self.lines != 0).any(3)

    @property
    def inputs(self) -> int:
        """How many channels the layer reads."""
        return self.lines.shape[0] * self.lines.shape[2]

    @property
    def outputs(self) -> int:
        """How many channels the layer makes."""
        return self.lines.shape[0] * self.lines.shape[1]


def kernel(facts: Facts, node: Node) -> Kernel | None:
    """Return the kernel of a convolution or linear layer; None where the program computes its weight."""
    source, weight = argument(node, "input"), argument(node, "weight")
    bias = argument(node, "bias")
    if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):
        return None
    stored = facts.lookup(str(weight.target)).detach().double()
    if operator(node) is aten.linear:
        axis = len(shape(source)) - 1
        return Kernel(stored[None, :, :, None], source, axis, len(shape(node)) - 1)
    groups = argument(node, "groups")
    axis = 1 if len(shape(source)) == stored.dim() else 0
    if operator(node) in TRANSPOSED_CONVOLUTIONS:  # (C_in, C_out / groups, k...)
        lines = stored.reshape(groups, -1, stored.shape[1], stored[0, 0].numel()).transpose(1, 2)
    else:
        lines = stored.reshape(groups, -1, stored.shape[1], stored[0, 0].numel())
    return Kernel(lines, source, axis, axis)


def _layer_constants(facts: Facts, node: Node) -> Tensor | None:
    """A filter is constant where it reads constants only: zeros anywhere, others without padding."""
    found = kernel(facts, node)
    if found is None:
        return None
    read = grids.line(facts.constant(found.source), found.reads, found.inputs).reshape(len(found.lines), -1)
    varies = grids.varies(read) | ((read != 0) & is_padded(node))
    live = ((found.touched & varies[:, None]) | read.isinf()[:, None]).any(2)
    known = torch.where(varies, 0.0, read)
    total = (found.lines.sum(3) @ known[:, :, None])[:, :, 0].flatten()
    bias = argument(node, "bias")
    if bias is not None:
        total = total + facts.lookup(str(bias.target)).detach().double()
    result = torch.where(live.flatten(), torch.nan, total)
    return grids.spread(result, found.makes, len(shape(node)))


def _layer_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    found = kernel(facts, node)
    if found is None:
        yield from everything(node)
        return
    if operator(node) is aten.linear:  # position by position: a class token needs no other token here
        wanted = cast(Tensor, need).expand(*cast(Tensor, need).shape[:-1], found.outputs)
        read = (wanted.double() @ found.touched[0].double()) > 0
        yield found.source, read | (facts.constant(found.source).isinf() & wanted.any(-1, keepdim=True))
        return
    infinite = grids.line(facts.constant(found.source), found.reads, found.inputs).isinf()
    rows = grids.line(cast(Tensor, need), found.makes, found.outputs).reshape(len(found.lines), -1)
    read = found.touched | infinite.reshape(len(found.lines), 1, -1)  # zero times infinity is not zero
    columns = (read & rows[:, :, None]).any(1).flatten()
    yield found.source, grids.spread(columns, found.reads, len(shape(found.source)))


def _embedding_constants(facts: Facts, node: Node) -> Tensor | None:
    """A column with one value for the whole vocabulary is constant."""
    table = argument(node, "weight")
    if table.op != "get_attr":
        return None
    columns = grids.line(facts.constant(table), 1, shape(table)[1])
    return grids.spread(columns, len(shape(node)) - 1, len(shape(node)))


def _norm_constants(facts: Facts, node: Node) -> list[Tensor | None]:
    source, weight, bias, mean, variance = node.args[:5]
    rank = len(shape(cast(Node, source)))

    def vector(item: object, otherwise: float) -> Tensor:
        if not isinstance(item, Node):
            return torch.tensor(otherwise, dtype=torch.float64)
        return grids.spread(facts.constant(item).expand(shape(item)), 1, rank)

    scale = vector(weight, 1.0) * (vector(variance, 1.0) + argument(node, "eps")).rsqrt()
    shift = vector(bias, 0.0)
    result = (facts.constant(cast(Node, source)) - vector(mean, 0.0)) * scale + shift
    return [torch.where(scale == 0, shift, result), None, None]


def _norm_needs(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    source, weight = node.all_input_nodes[0], node.args[1]
    parts = cast("list[Tensor | None]", need)
    if any(part is not None for part in parts[1:]) or parts[0] is None:
        yield from everything(node)
        return
    wanted = parts[0]
    if isinstance(weight, Node):
        scale = grids.spread(facts.constant(weight).expand(shape(weight)), 1, len(shape(source)))
        wanted = wanted & (scale != 0)
    yield source, wanted


def _all(facts: Facts, node: Node, need: Grid) -> Iterator[tuple[Node, Tensor]]:
    del facts, need
    yield from everything(node)


LAYER = Transfer(_layer_constants, _layer_needs)
EMBEDDING = Transfer(_embedding_constants, _all)
BATCH_NORM = Transfer(_norm_constants, _norm_needs)
