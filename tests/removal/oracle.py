"""Brute force: which filters the zeros of a network make superfluous, found by changing what they emit."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.capture import quiet_export
from pdp_export.graph.nodes import LAYERS, argument, aten, operator, shape
from tests.graph.facts.oracle import Injected, outputs

DRAWS, IMAGES = 3, 4


def removable_filters(module: GraphModule, example: tuple[Tensor, ...]) -> dict[str, int]:
    """Return, by weight, how many filters emit one constant or nothing that changes an output.

    A constant that is not zero counts too: it can be folded, or merged with others. Groups of a convolution
    stay equal, so a filter counts there only if every group has another one (inputs of a depthwise layer
    are its groups). Only zeros count, not a ReLU that happens to be silent: the other weights are drawn anew.
    Left out are weights that are used at several places, which would have to be copied where those disagree.
    Nothing is returned for a network that the zeros killed as a whole, whose outputs are the same for all inputs.
    """
    judges = [_Judge(_redrawn(module, draw), _cases(example, draw)) for draw in range(DRAWS)]
    layers = [node for node in module.graph.nodes if node.op == "call_function" and operator(node) in LAYERS]
    calls = Counter(str(argument(node, "weight").target) for node in layers)
    found: dict[str, int] = {}
    if all(judge.is_dead() for judge in judges):
        return found
    for number, node in enumerate(module.graph.nodes):
        if node in layers and calls[str(argument(node, "weight").target)] == 1:
            axis = 1 if operator(node) is not aten.linear else len(shape(node)) - 1
            channels = range(shape(node)[axis])
            free = [all(judge.is_free(number, axis, channel) for judge in judges) for channel in channels]
            groups = argument(node, "groups") if operator(node) is not aten.linear else 1
            found[str(argument(node, "weight").target)] = _in_equal_groups(free, groups)
    return found


def _redrawn(module: GraphModule, seed: int) -> GraphModule:
    """Return a network with the same zeros and other weights; the first is as it was."""
    with quiet_export():
        other = copy.deepcopy(module)
    draw = torch.Generator().manual_seed(seed)
    for parameter in other.parameters() if seed else ():
        scale = parameter.abs().max()
        drawn = torch.empty_like(parameter).uniform_(0.5, 1.5, generator=draw) * scale
        signs = torch.empty_like(parameter).bernoulli_(0.5, generator=draw) * 2 - 1
        parameter.data = torch.where(parameter == 0, parameter, drawn * signs)
    return other


def _cases(example: tuple[Tensor, ...], seed: int) -> list[tuple[Tensor, ...]]:
    """Return images of several scales and colours, and words in another order."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    def another(value: Tensor, index: int) -> Tensor:
        if value.is_floating_point():
            return 3**index * (normal(*value.shape) + normal(*value.shape[:2], 1, 1))
        return value.flatten()[torch.randperm(value.numel(), generator=draw)].view(value.shape)

    return [tuple(another(value, index) for value in example) for index in range(IMAGES)]


def _in_equal_groups(free: list[bool], groups: int) -> int:
    parts = torch.tensor(free).reshape(groups, -1).sum(1)
    whole = int((parts == len(free) // groups).sum())  # groups that can go as such
    rest = parts[parts < len(free) // groups]
    return whole * (len(free) // groups) + (len(rest) * int(rest.min()) if len(rest) else 0)


class _Judge:
    """The values of a network on all cases."""

    def __init__(self, module: GraphModule, cases: list[tuple[Tensor, ...]]) -> None:
        self.module, self.cases, self.nodes = module, cases, list(module.graph.nodes)
        self.plain, self.values = [outputs(module, case) for case in cases], list[dict[Node, Tensor]]()
        for case in cases:
            run = Injected(module)
            with torch.no_grad():
                run.run(*case)
            self.values.append(run.values)

    def is_dead(self) -> bool:
        """Tell whether no output depends on the input."""
        each = [torch.cat(rows) for rows in zip(*self.plain, strict=True)]
        return all(bool((rows - rows[:1]).abs().max() <= 1e-12 * (1 + rows.abs().max())) for rows in each)

    def is_free(self, number: int, axis: int, channel: int) -> bool:
        """Tell whether a channel of a node could go."""
        node = self.nodes[number]
        return self._is_constant(node, axis, channel) or self._is_silent(node, axis, channel)

    def _is_constant(self, node: Node, axis: int, channel: int) -> bool:
        entries = torch.cat([values[node].select(axis, channel).flatten() for values in self.values])
        return bool((entries - entries[0]).abs().max() <= 1e-12 * max(1.0, entries[0].abs().item()))

    def _is_silent(self, node: Node, axis: int, channel: int) -> bool:
        draw = torch.Generator().manual_seed(channel)
        for case, values, before in zip(self.cases, self.values, self.plain, strict=True):
            noise = torch.zeros_like(values[node])
            noise.select(axis, channel).normal_(generator=draw).mul_(1 + values[node].abs().max())
            after = outputs(self.module, case, node, noise)
            pairs = zip(before, after, strict=True)
            if any((old - new).abs().max() > 1e-10 * (1 + old.abs().max()) for old, new in pairs):
                return False
        return True
