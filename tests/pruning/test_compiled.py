"""The Pruner under torch.compile: the whole model in one graph, and none compiled anew as thresholds move."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from pdp_export.pruning import NM, PRESET_NAMES, Block, Channel, Pruner, Schedule, Unstructured

# Dynamo makes an object of every autograd.Function that it traces.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
PATTERNS = [Unstructured(0.7), NM(2, 4), Block(0.5, 2, 2), Channel(0.5, align=1)]


@pytest.fixture
def compiled_graphs():
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def layers() -> nn.Sequential:
    """Layers of very different sizes: the first mask starts to prune long before the last one does."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)
    )


ENDS = {"prune_first": True, "prune_last": True}
RIVALS = [pytest.param(PATTERNS[0], name, marks=pytest.mark.slow) for name in PRESET_NAMES[3:]]
CASES = [*((pattern, "default") for pattern in PATTERNS), *((PATTERNS[0], name) for name in ("paper", "rectified"))]


@pytest.mark.parametrize(("pattern", "preset"), [*CASES, (PATTERNS[3], "paper"), *RIVALS])
def test_compiled_model_is_traced_whole_and_only_twice(compiled_graphs, pattern, preset):
    """Thresholds and counts change at every step: a guard on one of them compiles anew until dynamo gives up.

    Two graphs are needed, without masks and with them, all masks at once.
    """
    model, inputs = layers(), torch.randn(8, 8)
    pruner = Pruner(model, pattern, Schedule(0.1, 0.7), (inputs,), preset=preset, refresh_every=1, **ENDS)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for progress in (0.0, 0.05, *(0.1 + 0.002 * step for step in range(1, 20)), 0.3, 0.6, 0.9, 1.0):
        compiled(inputs).square().mean().backward()
        pruner.step(progress)
    assert pruner.sparsity > 0.4
    assert compiled_graphs["stats"]["unique_graphs"] == 2
    assert not compiled_graphs["graph_break"]


def test_compiled_training_gives_the_eager_weights(compiled_graphs):
    """A gradient that autograd derives itself, past the mask's own rule, would train other weights."""
    weights = []
    for compiled in (False, True):
        model = layers()
        pruner = Pruner(model, Unstructured(0.7), Schedule(0.1, 0.7), **ENDS)
        called = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        torch.manual_seed(1)
        for step in range(1, 21):
            optimizer.zero_grad()
            F.cross_entropy(called(torch.randn(8, 8)), torch.randint(0, 4, (8,))).backward()
            optimizer.step()
            pruner.step(step / 20)
        pruner.harden()
        weights.append(list(model.parameters()))
    assert compiled_graphs["stats"]["unique_graphs"] == 2
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
