"""Channel facts against what really happens when values change."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from pdp_export.graph.facts import channel_facts
from pdp_export.graph.nodes import operator, shape
from pdp_export.graph.operators import SOFTMAXES
from tests.graph.facts.oracle import Injected, activations, outputs, program, sparsified
from tests.graph.facts.zoo import ZOO

SEEDS = range(4)
NAMES = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ZOO]  # each is captured once


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.allclose(old, new, rtol=1e-10, atol=1e-11) for old, new in zip(first, second, strict=True))


@cache
def _case(name: str, seed: int) -> tuple[torch.fx.GraphModule, tuple[torch.Tensor, ...]]:
    torch.manual_seed(seed)
    build, size = ZOO[name]
    example = torch.randn(size)
    return program(sparsified(build(), seed), example), (example.double(),)


@pytest.mark.parametrize("name", NAMES)
def test_constants_are_constant(name):
    """A channel taken for a constant that is none would be removed with its information."""
    for seed in SEEDS:
        module, inputs = _case(name, seed)
        facts = channel_facts(module)
        for trial in (inputs, tuple(torch.randn_like(value) * 3 for value in inputs)):
            run = Injected(module)
            with torch.no_grad():
                run.run(*trial)
            for node in activations(module):
                grid = facts.constant(node).expand(shape(node))
                said = grid.isfinite()
                torch.testing.assert_close(run.values[node][said], grid[said], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_needed_changes_nothing(name):
    """An element taken for unneeded that an output depends on would change the function."""
    for seed in SEEDS:
        module, inputs = _case(name, seed)
        facts = channel_facts(module)
        before = outputs(module, inputs)
        for node in activations(module):
            if operator(node) in SOFTMAXES:
                continue  # no input makes rows that do not sum to one
            silent = ~facts.need(node) & ~facts.constant(node).isfinite()  # a constant is needed as a constant
            noise = torch.where(silent.expand(shape(node)), torch.randn(shape(node), dtype=torch.float64), 0.0)
            for old, new in zip(before, outputs(module, inputs, node, noise), strict=True):
                torch.testing.assert_close(old, new, rtol=1e-12, atol=1e-13, msg=str(node))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_live_changes_something(name):
    """Facts that call everything needed are safe, and useless: nothing would be removed."""
    live, silent = 0, []
    for seed in SEEDS:
        module, inputs = _case(name, seed)
        facts = channel_facts(module)
        cases = [inputs, *(tuple(3 * torch.randn_like(value) for value in inputs) for _ in range(3))]
        before = [outputs(module, case) for case in cases]
        for node in activations(module):
            for axis in range(1, len(shape(node))):
                count = shape(node)[axis]
                for index in torch.nonzero(facts.live(node, axis, count)).flatten().tolist():
                    noise = torch.zeros(shape(node), dtype=torch.float64)
                    noise.select(axis, index).normal_()
                    live += 1
                    if all(
                        _same(old, outputs(module, case, node, noise)) for old, case in zip(before, cases, strict=True)
                    ):
                        silent.append((str(node), axis, index))
    assert live > 0
    assert len(silent) <= 0.05 * live, silent
