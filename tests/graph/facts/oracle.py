"""The judge of channel facts: what really changes when something is changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from pdp_export.graph.capture import capture
from pdp_export.graph.nodes import is_tensor
from pdp_export.removal.precision import widened


def program(model: nn.Module, *inputs: Tensor) -> GraphModule:
    """Capture a model and widen it to float64."""
    return widened(capture(model.eval(), inputs))


def sparsified(model: nn.Module, seed: int, share: float = 0.4) -> nn.Module:
    """Zero random filters, with or without their biases, and random input columns of every layer with weights."""
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Conv1d):
            continue
        transposed = isinstance(module, nn.ConvTranspose2d)
        rows, columns = (1, 0) if transposed else (0, 1)
        with torch.no_grad():
            dead = torch.rand(module.weight.shape[rows], generator=draw) < share
            module.weight.movedim(rows, 0)[dead] = 0
            module.weight.movedim(columns, 0)[torch.rand(module.weight.shape[columns], generator=draw) < share] = 0
            if module.bias is not None and transposed is False and torch.rand((), generator=draw) < 0.5:
                module.bias[dead] = 0
    return model


class Injected(Interpreter):
    """Runs a module and adds numbers to the values of one node."""

    def __init__(self, module: GraphModule, where: Node | None = None, noise: Tensor | None = None) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.where, self.noise = where, noise
        self.values: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n is self.where and self.noise is not None:
            result = result + self.noise
        self.values[n] = result
        return result


def outputs(
    module: GraphModule, inputs: tuple[Tensor, ...], where: Node | None = None, noise: Tensor | None = None
) -> list[Tensor]:
    """Return the outputs, with noise added to the value of one node."""
    with torch.no_grad():
        return list(pytree.tree_leaves(Injected(module, where, noise).run(*inputs)))


def activations(module: GraphModule) -> list[Node]:
    """Return the nodes that compute one floating tensor."""
    return [
        node
        for node in module.graph.nodes
        if node.op == "call_function" and is_tensor(node) and node.meta["val"].is_floating_point()
    ]
