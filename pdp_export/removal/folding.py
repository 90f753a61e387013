"""Folds each BatchNorm into the convolution or linear layer before it.

With scale s = gamma / sqrt(var + eps) per output channel: W' = s W and b' = s (b - mean) + beta
(Jacob et al. 2018, arXiv 1712.05877, section 3.2). Done in float64; a zero weight stays zero.
"""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import (
    BATCH_NORM,
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    argument,
    aten,
    free_name,
    operator,
    replace_tensor,
    set_argument,
    shape,
    stored,
    tensor_of,
)


def fold_batch_norms(module: GraphModule) -> dict[str, str]:
    """Fold in place every BatchNorm whose input comes from a layer that nothing else reads.

    Left whole: a BatchNorm after anything else (an addition, a concatenation), after a layer whose
    output or weight is used twice, or after a weight that the program computes.

    Returns:
        For every folded layer, the node of the old graph that had the value it has now.
    """
    folded: dict[str, str] = {}
    for norm in list(module.graph.nodes):
        if norm.op == "call_function" and operator(norm) is BATCH_NORM:
            layer, result = norm.args[0], _only_result(norm)
            if result is not None and _can_fold(layer, norm):
                _fold(module, layer, norm)
                folded[layer.name] = result.name
                result.replace_all_uses_with(layer)
    drop_dead_code(module)
    return folded


def drop_dead_code(module: GraphModule) -> None:
    """Delete what no output depends on: nodes, then tensors.

    Attention goes too; torch calls it impure, for the dropout that it does not do in inference.
    """
    module.graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    drop_unused_tensors(module)
    module.recompile()


def drop_unused_tensors(module: GraphModule) -> None:
    """Delete the parameters, buffers and constants that the graph does not read any more."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for prefix, owner in list(module.named_modules()):
        for leaf in [*owner._parameters, *owner._buffers]:
            if f"{prefix}.{leaf}".lstrip(".") not in used:
                delattr(owner, leaf)
    for name in [key for key, item in vars(module).items() if isinstance(item, Tensor)]:
        if name not in used:
            delattr(module, name)
    module.delete_all_unused_submodules()


def _only_result(norm: Node) -> Node | None:
    """Return the getitem that takes the normalised tensor, unless the statistics are read as well."""
    users = list(norm.users)
    return users[0] if len(users) == 1 and users[0].args[1] == 0 else None


def _can_fold(layer: Node, norm: Node) -> bool:
    if layer.op != "call_function" or len(layer.users) != 1:
        return False
    two_dimensional = operator(layer) is aten.linear and len(shape(layer)) == 2  # noqa: PLR2004  (N, C)
    if operator(layer) not in CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS and not two_dimensional:
        return False
    tensors = [argument(layer, "weight"), argument(layer, "bias"), *norm.args[1:5]]
    return all(tensor is None or tensor.op == "get_attr" for tensor in tensors) and len(tensors[0].users) == 1


def _fold(module: GraphModule, layer: Node, norm: Node) -> None:
    weight_name = argument(layer, "weight").target
    gamma, beta, old = (stored(module, node) for node in (norm.args[1], norm.args[2], argument(layer, "bias")))
    mean, variance = (tensor_of(module, argument(norm, name).target) for name in ("running_mean", "running_var"))
    scale = (variance + argument(norm, "eps")).rsqrt()
    scale = scale if gamma is None else scale * gamma
    shift = (-mean if old is None else old - mean) * scale
    bias = shift if beta is None else shift + beta
    replace_tensor(module, weight_name, _scaled(tensor_of(module, weight_name), scale, layer))
    given = argument(layer, "bias")
    name = str(given.target) if given is not None and len(given.users) == 1 else new_bias_name(module, weight_name)
    replace_tensor(module, name, bias)
    set_bias(module, layer, name, bias)


def _scaled(weight: Tensor, scale: Tensor, layer: Node) -> Tensor:
    """Scale the output channels: axis 0, or axis 1 inside each group of a transposed convolution."""
    if operator(layer) in TRANSPOSED_CONVOLUTIONS:
        groups = argument(layer, "groups")
        parts = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, C_in / groups, C_out / groups, ...)
        return (parts * scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)
    return weight * scale.view(-1, *[1] * (weight.dim() - 1))


def new_bias_name(module: GraphModule, weight_name: str) -> str:
    """Return a free name for the bias that a layer gets: the weight's neighbour."""
    stem = weight_name.removesuffix("weight")
    return free_name(module, f"{stem}bias" if stem != weight_name else f"{weight_name}_bias")


def set_bias(module: GraphModule, layer: Node, name: str, bias: Tensor) -> None:
    """Let a layer read its bias from the tensor `name`, which is already in the module."""
    with module.graph.inserting_before(layer):
        node = module.graph.get_attr(name)
    node.meta["val"] = bias
    set_argument(layer, "bias", node)
