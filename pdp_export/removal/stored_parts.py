"""Stores the parts of a tensor that a network only ever reads in parts, each under a name of its own.

``nn.MultiheadAttention`` on a query and another memory cuts its stored projection in every run; a layer whose weight
is computed could not lose channels.
"""

from __future__ import annotations

from operator import getitem

from torch.fx import GraphModule, Node

from pdp_export.graph.nodes import aten, free_name, operator, replace_tensor, stored, tensor_of

_CUTS = {aten.split_with_sizes, aten.split, aten.chunk, aten.unbind}


def store_parts(module: GraphModule) -> None:
    """Replace in place every stored tensor that is only cut, once: ``name`` becomes ``name_0``, ``name_1``, ...

    The old tensors stay until what is unused is dropped.
    """
    for cut in list(module.graph.nodes):
        source = cut.args[0] if cut.op == "call_function" and operator(cut) in _CUTS else None
        if not isinstance(source, Node) or stored(module, source) is None or list(source.users) != [cut]:
            continue
        if not all(user.target is getitem for user in cut.users):
            continue
        parts = cut.target(tensor_of(module, str(source.target)).detach(), *cut.args[1:], **cut.kwargs)
        for user in list(cut.users):
            number = user.args[1]
            name = free_name(module, f"{source.target}_{number}")
            replace_tensor(module, name, parts[number].clone())
            with module.graph.inserting_before(user):
                node = module.graph.get_attr(name)
            node.meta = dict(user.meta)
            user.replace_all_uses_with(node)
