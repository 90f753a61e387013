"""Whole networks as ONNX for timing alone: by torch's older exporter, which takes a tenth of the time of the newer one.

It takes the graph as it is, so that nothing has to be captured again for a plan that will most likely not be carried
out. What is shipped never comes from here.
"""

from __future__ import annotations

import io
import operator
import warnings
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from pdp_export.graph.nodes import BATCH_NORM, argument, aten, is_tensor, shape
from pdp_export.graph.nodes import operator as kind

if TYPE_CHECKING:
    from torch import Tensor

_OPSET = 17
_IMAGE = 4
"""The number of axes of (N, C, H, W)."""


def quick_onnx(module: GraphModule, inputs: tuple[Tensor, ...]) -> bytes | None:
    """Return a network as ONNX for inputs of these sizes; None for what the older exporter cannot express."""
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch calls this exporter old
            torch.onnx.export(plain(module), inputs, buffer, dynamo=False, opset_version=_OPSET)  # type: ignore[arg-type]
    except Exception:  # whatever it cannot express, the newer one can
        return None
    return buffer.getvalue()


def plain(module: GraphModule) -> GraphModule:
    """Replace spelled-out average pooling and BatchNorm by torch's own functions, in place, as runtimes know them."""
    for node in list(module.graph.nodes):
        if node.target is aten.mean.dim and _over_image(node):
            node.target, node.args, node.kwargs = F.adaptive_avg_pool2d, (node.args[0], 1), {}
        elif node.op == "call_function" and kind(node) is BATCH_NORM:
            _batch_norm(node)
    module.recompile()
    return module


def _over_image(node: Node) -> bool:
    source, axes = argument(node, "self"), argument(node, "dim")
    if not is_tensor(source) or len(shape(source)) != _IMAGE:
        return False
    return sorted(axis % _IMAGE for axis in axes) == [2, 3] and bool(argument(node, "keepdim"))


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
