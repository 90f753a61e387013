"""Brings all variants to the same form, so that nothing but their channels is compared.

BatchNorms that follow a convolution are folded in every variant, and activations write to new tensors, as those of
captured programs do. Programs of torch.export spell two layers out in a way that runtimes know less well than the
layers themselves; those are put back.
"""

from __future__ import annotations

import operator
import warnings
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

aten: Any = torch.ops.aten


def folded(model: nn.Module) -> nn.Module:
    """Return the module with BatchNorms folded into the convolutions in front of them, and nothing done in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own module uses what torch has deprecated
        from torch.fx.experimental.optimization import fuse
    result: nn.Module = fuse(model.eval()).eval()
    for module in result.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return result


def plain(module: GraphModule) -> GraphModule:
    """Replace spelled-out average pooling and BatchNorm by torch's own functions, in place."""
    for node in list(module.graph.nodes):
        if node.target is aten.mean.dim and _over_image(node):
            node.target, node.args, node.kwargs = F.adaptive_avg_pool2d, (node.args[0], 1), {}
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            _batch_norm(node)
    module.recompile()
    return module


def _over_image(node: Node) -> bool:
    axes = sorted(axis % 4 for axis in node.args[1])  # type: ignore[union-attr, operator]
    keeps = len(node.args) > 2 and bool(node.args[2])
    return axes == [2, 3] and keeps and node.args[0].meta["val"].dim() == 4  # type: ignore[union-attr]


def _batch_norm(node: Node) -> None:
    x, weight, bias, mean, variance, _, epsilon = node.args
    graph = node.graph
    with graph.inserting_before(node):
        result = graph.call_function(F.batch_norm, (x, mean, variance, weight, bias, False, 0.0, epsilon))
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] == 0:
            user.replace_all_uses_with(result)
        graph.erase_node(user)
    graph.erase_node(node)
