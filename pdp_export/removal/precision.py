"""A captured program in double precision, where rewriting is exact enough to be proven, and back.

The constants of a program are baked in at capture. Widening the captured program, and not the user's
module, makes both sides of a proof start from the same numbers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from pdp_export.graph.capture import quiet_export
from pdp_export.graph.nodes import has_argument, is_tensor, replace_tensor, tensor_of, used_tensors, value


def widened(program: ExportedProgram) -> GraphModule:
    """Return the program as an editable module that computes in float64 on the CPU; the program is left as it is."""
    module = _copied(program.module(check_guards=False))
    for name in used_tensors(module):
        replace_tensor(module, name, in_dtype(tensor_of(module, name).detach().cpu(), torch.float64))
    _retype(module, torch.float64)
    return module


def narrowed(module: GraphModule) -> GraphModule:
    """Return a copy that computes in float32: one rounding per weight, and zeros become +0.0."""
    module = _copied(module)
    for name in used_tensors(module):
        tensor = tensor_of(module, name).detach()
        replace_tensor(module, name, canonical(in_dtype(tensor, torch.float32)))
    _retype(module, torch.float32)
    return module


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy in another floating dtype; integers and booleans keep theirs."""
    return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def canonical(tensor: Tensor) -> Tensor:
    """Return the tensor with -0.0 turned into +0.0."""
    return tensor + 0.0 if tensor.is_floating_point() else tensor


def _copied(module: GraphModule) -> GraphModule:
    with quiet_export():
        return copy.deepcopy(module)


def _retype(module: GraphModule, dtype: torch.dtype) -> None:
    """Let every node that names a floating dtype, or creates a floating tensor, use this one, on the CPU."""

    def substitute(item: Any) -> Any:
        if isinstance(item, torch.device):
            return torch.device("cpu")
        return dtype if isinstance(item, torch.dtype) and item.is_floating_point else item

    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args = map_aggregate(node.args, substitute)
            node.kwargs = map_aggregate(node.kwargs, substitute)
            if _creates_floats(node) and node.kwargs.get("dtype") is None:
                node.kwargs = {**node.kwargs, "dtype": dtype}
    module.recompile()


def _creates_floats(node: Node) -> bool:
    return (
        is_tensor(node)
        and value(node).is_floating_point()
        and has_argument(node, "dtype")
        and not any(is_tensor(source) for source in node.all_input_nodes)
    )
