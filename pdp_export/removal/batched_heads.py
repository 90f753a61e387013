"""Gives heads that share an axis with the batch an axis of their own.

``nn.MultiheadAttention`` computes on (batch x heads, tokens, size). Which rows of that axis belong to one head depends
on the batch, so that no head could be cut out. The same numbers as (batch, heads, tokens, size) are the same function.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from pdp_export.graph.nodes import argument, aten, is_fixed, is_tensor, operator, shape, value
from pdp_export.graph.operators import UNARY

_VIEWS = {aten.view, aten._unsafe_view, aten.reshape}
_ELEMENTWISE = UNARY | {aten.mul, aten.div, aten.add, aten.sub, aten.clone}
_MERGED = 3
"""Axes of a tensor (batch x heads, rows, columns)."""


def separate_heads(module: GraphModule) -> None:
    """Rewrite in place every attention of which each step can be followed; the others stay as they are."""
    heads = {node: count for node in module.graph.nodes if (count := _merged_here(node)) > 1}
    for node in module.graph.nodes:
        if node not in heads and (count := _kept_by(node, heads)) > 1:
            heads[node] = count
    _drop_unfinished(heads)
    separate: dict[Node, Node] = {}
    for node, count in heads.items():
        separate[node] = _rewritten(module, node, count, separate)
    for node in heads:
        for user in [user for user in node.users if user not in heads]:
            _leave(module, user, separate[node])


def _merged_here(node: Node) -> int:
    """Return how many heads a node merges with the batch: view (T, B x heads, size) of (T, B, C), transposed."""
    if not _swaps(node, 0, 1):
        return 0
    view = node.args[0]
    if not isinstance(view, Node) or operator(view) not in _VIEWS or not is_tensor(view.args[0]):
        return 0
    before, after = shape(view.args[0]), shape(view)  # type: ignore[arg-type]
    if len(before) != len(after) or len(after) != _MERGED or before[0] != after[0]:
        return 0
    whole = before[2] % after[2] == 0 and after[1] * after[2] == before[1] * before[2]
    return before[2] // after[2] if whole else 0


def _swaps(node: Node, first: int, second: int) -> bool:
    if node.op != "call_function" or operator(node) is not aten.transpose or not is_tensor(node):
        return False
    rank = len(shape(node))
    axes = {argument(node, "dim0") % rank, argument(node, "dim1") % rank}
    return rank == _MERGED and axes == {first % rank, second % rank}


def _kept_by(node: Node, heads: dict[Node, int]) -> int:
    """Return the heads of a node that computes on merged ones and leaves them in their axis; 0: it does not."""
    sources = [source for source in node.all_input_nodes if source in heads]
    if node.op != "call_function" or not sources or not is_tensor(node) or len(shape(node)) != _MERGED:
        return 0
    counts = {heads[source] for source in sources}
    kind = operator(node)
    if kind is aten.bmm:
        followed = len(sources) == len(node.all_input_nodes)
    elif kind is aten.baddbmm:
        mask, *others = node.all_input_nodes
        followed = not node.kwargs and len(others) == 2 and sources == others and _is_same_for_all(mask)  # noqa: PLR2004
    elif kind is aten.softmax:
        followed = argument(node, "dim") % _MERGED != 0
    elif kind in _ELEMENTWISE:
        followed = all(_is_same_for_all(other) for other in node.all_input_nodes if other not in heads)
    else:
        followed = _swaps(node, 1, 2)
    return counts.pop() if followed and len(counts) == 1 else 0


def _is_same_for_all(node: Node) -> bool:
    """Tell whether an operand broadcasts over the batch and its heads."""
    return is_tensor(node) and (len(shape(node)) < _MERGED or shape(node)[-_MERGED] == 1)


def _drop_unfinished(heads: dict[Node, int]) -> None:
    """Forget, with all that is connected to it, what is used in a way that cannot be followed."""
    wrong = [node for node in heads if any(user not in heads and not _can_leave(user, heads) for user in node.users)]
    while wrong:
        node = wrong.pop()
        if node in heads:
            del heads[node]
            wrong += [other for other in (*node.users, *node.all_input_nodes) if other in heads]


def _can_leave(user: Node, heads: dict[Node, int]) -> bool:
    """Tell whether a reader wants batch and heads apart, or each head's part of a token beside the others."""
    source = user.args[0]
    if user.op != "call_function" or not isinstance(source, Node) or source not in heads:
        return False
    if operator(user) in _VIEWS:
        return shape(user) == _apart(shape(source), heads[source])
    return _swaps(user, 0, 1) and all(operator(last) in _VIEWS for last in _past_copies(user))


def _past_copies(node: Node) -> Iterator[Node]:
    for user in node.users:
        if operator(user) is aten.clone:
            yield from _past_copies(user)
        else:
            yield user


def _apart(merged: tuple[int, ...], heads: int) -> tuple[int, ...]:
    return (merged[0] // heads, heads, *merged[1:])


def _rewritten(module: GraphModule, node: Node, heads: int, separate: dict[Node, Node]) -> Node:
    """Insert what a node computes with (batch, heads, ...) in the place of (batch x heads, ...)."""
    add = _Inserter(module, node)
    arguments = map_arg(node.args, lambda item: separate.get(item, item))
    if not any(source in separate for source in node.all_input_nodes):
        source, size = _sizes_apart(node, heads)
        return add(aten.permute.default, add(aten.view.default, source, size), [1, 2, 0, 3])
    kind = operator(node)
    if kind is aten.transpose:
        return add(aten.transpose.int, arguments[0], -2, -1)
    if kind is aten.softmax:
        return add(node.target, arguments[0], argument(node, "dim") % _MERGED - _MERGED, *arguments[2:])
    if kind is aten.bmm:
        return add(aten.matmul.default, *arguments)
    if kind is aten.baddbmm:
        return add(aten.add.Tensor, add(aten.matmul.default, *arguments[1:]), arguments[0])
    return add(node.target, *arguments, **node.kwargs)


def _sizes_apart(node: Node, heads: int) -> tuple[Node, list[Any]]:
    """Return the tensor (tokens, batch, channels) behind a node, and the sizes that give its heads an axis."""
    view: Any = node.args[0]
    source: Node = view.args[0]
    tokens, batch, _ = value(source).shape
    return source, [
        tokens if is_fixed(tokens) else view.args[1][0],
        batch if is_fixed(batch) else -1,
        heads,
        shape(view)[2],
    ]


def _leave(module: GraphModule, user: Node, source: Node) -> None:
    """Let a reader of merged heads read the separate ones."""
    if operator(user) in _VIEWS:
        user.replace_all_uses_with(source)
    else:
        _replaced(module, user, _Inserter(module, user)(aten.permute.default, source, [2, 0, 1, 3]))


def _replaced(module: GraphModule, old: Node, new: Node) -> None:
    """Let copies and views of (tokens, batch x heads, size) read (tokens, batch, heads, size), the same numbers."""
    for user in list(old.users):
        if operator(user) is aten.clone:
            _replaced(module, user, _Inserter(module, user)(user.target, new, **user.kwargs))
        else:
            user.replace_input_with(old, new)


class _Inserter:
    """Inserts calls in front of a node, in its user's module, with their traced values."""

    def __init__(self, module: GraphModule, place: Node) -> None:
        self._graph, self._place = module.graph, place

    def __call__(self, target: Any, *arguments: Any, **keywords: Any) -> Node:
        with self._graph.inserting_before(self._place):
            node = self._graph.call_function(target, arguments, keywords)
        node.meta = {key: item for key, item in self._place.meta.items() if key == "nn_module_stack"}
        node.meta["val"] = target(*map_arg(arguments, value), **map_arg(keywords, value))
        return node
