"""Small questions about a node of a captured graph: its arguments by name, its shape, its tensor."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

aten = torch.ops.aten

CONVOLUTIONS = frozenset({aten.conv1d, aten.conv2d, aten.conv3d})
TRANSPOSED_CONVOLUTIONS = frozenset({aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d})
LAYERS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | {aten.linear}
BATCH_NORM = aten._native_batch_norm_legit_no_training


def operator(node: Node) -> Any:
    """Return the operator without its overload (``aten.add`` for ``aten.add.Tensor``), or the plain function."""
    return getattr(node.target, "overloadpacket", node.target)


def operator_name(node: Node) -> str:
    """Return the operator as a person reads it, for example ``aten.conv2d``."""
    return str(operator(node)) if node.op == "call_function" else node.op


def argument(node: Node, name: str) -> Any:
    """Return an argument of an ATen call by its schema name; its default if it was left out."""
    for position, declared in enumerate(_schema(node).arguments):
        if declared.name == name:
            if position < len(node.args):
                return node.args[position]
            return node.kwargs.get(name, declared.default_value)
    raise KeyError(f"{node.target} has no argument {name!r}")


def set_argument(node: Node, name: str, value: Any) -> None:
    """Set an argument of an ATen call by its schema name."""
    for position, declared in enumerate(_schema(node).arguments):
        if declared.name != name:
            continue
        if declared.kwarg_only:
            node.kwargs = {**node.kwargs, name: value}
            return
        given = {item.name: argument(node, item.name) for item in _schema(node).arguments[:position]}
        rest = {key: item for key, item in node.kwargs.items() if key not in given and key != name}
        node.args = (*given.values(), value, *node.args[position + 1 :])
        node.kwargs = rest
        return
    raise KeyError(f"{node.target} has no argument {name!r}")


def has_argument(node: Node, name: str) -> bool:
    """Tell whether the schema of an ATen call declares this argument."""
    return isinstance(node.target, torch._ops.OpOverload) and any(a.name == name for a in _schema(node).arguments)


def shape(node: Node) -> tuple[int, ...]:
    """Return the traced shape; a dynamic size counts as the size it was traced with."""
    return tuple(hint(size) for size in value(node).shape)


def hint(size: int | torch.SymInt) -> int:
    """Return a size as a number; a dynamic one as the size it was traced with."""
    # int() of a symbolic size would tell torch that the axis is fixed, in the program itself.
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def is_fixed(size: int | torch.SymInt) -> bool:
    """Tell whether a size is a number, not dynamic."""
    return isinstance(size, int)


def is_sized(node: Node) -> bool:
    """Tell whether every size of a tensor is known while tracing; what nonzero() returns has one that is not."""
    return all(is_fixed(size) or size.node.hint is not None for size in value(node).shape)


def value(node: Node) -> Any:
    """Return the traced (fake) value: a tensor, a number, or a list of them."""
    return node.meta["val"]


def is_padded(node: Node) -> bool:
    """Tell whether a layer mixes its input with zeros at the border, so that constants are none there."""
    if operator(node) is aten.linear:
        return False
    if operator(node) in TRANSPOSED_CONVOLUTIONS:
        return True
    padding = argument(node, "padding")
    widths = [padding] if isinstance(padding, int | str) else list(padding)
    return any(width not in {0, "valid"} for width in widths)


def is_tensor(node: object) -> bool:
    """Tell whether this is a node whose value is one tensor."""
    return isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor)


def tensor_of(module: GraphModule, name: str) -> Tensor:
    """Return the parameter, buffer or constant with this fully qualified name."""
    return cast(Tensor, attrgetter(name)(module))


def stored(module: GraphModule, node: object) -> Tensor | None:
    """Return the tensor that a ``get_attr`` node reads; None for anything else, a missing bias for example."""
    if isinstance(node, Node) and node.op == "get_attr":
        return tensor_of(module, str(node.target))
    return None


def replace_tensor(module: GraphModule, name: str, tensor: Tensor) -> None:
    """Put another tensor under a fully qualified name; a parameter stays one, a new name becomes one."""
    prefix, _, leaf = name.rpartition(".")
    owner = module.get_submodule(prefix)
    old = getattr(owner, leaf, None)
    if old is None or isinstance(old, nn.Parameter):
        needs_gradient = tensor.is_floating_point() and (old is None or old.requires_grad)
        tensor = nn.Parameter(tensor.detach(), requires_grad=needs_gradient)
    setattr(owner, leaf, tensor)


def free_name(module: GraphModule, name: str) -> str:
    """Return a fully qualified name that nothing in the module has: this one, or it with a number behind it."""
    prefix, _, leaf = name.rpartition(".")
    owner, free, number = module.get_submodule(prefix), leaf, 0
    while getattr(owner, free, None) is not None:
        free, number = f"{leaf}_{number + 1}", number + 1
    return f"{prefix}.{free}".lstrip(".")


def used_tensors(module: GraphModule) -> dict[str, Node]:
    """Return the ``get_attr`` node of every tensor that the graph reads, by fully qualified name."""
    found = {str(node.target): node for node in module.graph.nodes if node.op == "get_attr"}
    return {name: node for name, node in found.items() if isinstance(tensor_of(module, name), Tensor)}


def layer_of(node: Node) -> str:
    """Return the user's module that made this node ("features.0.0"), or the node's own name."""
    stack = node.meta.get("nn_module_stack")
    path = list(stack.values())[-1][0] if stack else ""
    return path or node.name


def _schema(node: Node) -> Any:
    return cast(torch._ops.OpOverload, node.target)._schema
