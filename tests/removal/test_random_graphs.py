"""Random graphs with random masks: the function stays, nothing crashes, and what could go went."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Node

from pdp_export.errors import RemovalError
from pdp_export.graph.capture import capture
from pdp_export.graph.nodes import BATCH_NORM, argument, aten, operator, shape
from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import Analytic, CostModel, Macs, Size
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import Prepared, prepare
from tests.removal.cost_models import NoGathers, NoSums
from tests.removal.generator import Builder, masked
from tests.removal.oracle import removable_filters

SHARE = 0.95
"""Of the filters that the masks make superfluous, how many must go."""

FAMILIES: dict[str, tuple[object, ...]] = {
    "convolution": (aten.conv2d,), "transposed convolution": (aten.conv_transpose2d,), "linear": (aten.linear,),
    "embedding": (aten.embedding,), "layer norm": (aten.layer_norm,), "group norm": (aten.group_norm,),
    "batch norm that stays": (BATCH_NORM,), "matmul": (aten.matmul,), "softmax": (aten.softmax,),
    "attention": (aten.scaled_dot_product_attention,), "addition": (aten.add,), "product": (aten.mul,),
    "activation": (aten.relu, aten.silu, aten.tanh, aten.gelu, aten.hardswish), "gate": (aten.sigmoid,),
    "pooling": (aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d), "mean": (aten.mean,),
    "padding": (aten.constant_pad_nd, aten.pad), "resizing": (aten.upsample_nearest2d,), "concatenation": (aten.cat,),
    "split": (aten.split, aten.split_with_sizes), "slice": (aten.slice,), "view": (aten.view, aten._unsafe_view),
    "permutation": (aten.transpose, aten.permute), "pixels": (aten.pixel_shuffle,),
}  # fmt: skip
"""Operators that change how channels flow; each must occur in 20 of 500 graphs."""


COSTS: tuple[CostModel, ...] = (
    Macs(), Analytic(), Size(), NoGathers(), NoSums(before_concatenations=True), Macs(before_concatenations=True),
)  # fmt: skip
"""Gathers where they pay, everywhere, nowhere; copies of layers; sums over classes; parts of concatenations."""


def _drawn(seed: int, most: int = 5) -> Prepared:
    """Return a masked network of up to `most` blocks."""
    draw = Random(seed)
    torch.manual_seed(seed)
    network, inputs = Builder(draw).network(draw.randint(1, most))
    model = masked(network, draw).eval()
    open_batch = {index: {0: "batch"} for index in range(len(inputs))} if seed % 3 == 0 else None  # it is slow to trace
    return prepare(capture(model, inputs, open_batch), None, None)


def check(prepared: Prepared, align: int = 1, cost: CostModel | None = None) -> None:
    """Remove channels from one random network."""
    _, report = remove_from(prepared, (align,), cost or Macs(), stage="test")
    assert report.proof_error <= LIMIT


def families(prepared: Prepared) -> set[str]:
    """Return which families of operators a network holds, and how its layers are used."""
    calls = [node for node in prepared.folded.graph.nodes if node.op == "call_function"]
    used = {operator(node) for node in calls}
    found = {name for name, members in FAMILIES.items() if used & set(members)}
    convolutions = [node for node in calls if operator(node) is aten.conv2d]
    groups = [(argument(node, "groups"), shape(argument(node, "input"))[1]) for node in convolutions]
    weights = [argument(node, "weight").target for node in convolutions]
    inputs = [node for node in prepared.folded.graph.nodes if node.op == "placeholder"]
    results = next(node for node in prepared.folded.graph.nodes if node.op == "output").all_input_nodes
    special = {
        "grouped": any(1 < number < channels for number, channels in groups),
        "depthwise": any(1 < number == channels for number, channels in groups),
        "dilated": any(set(argument(node, "dilation")) != {1} for node in convolutions),
        "shared layer": len(set(weights)) < len(weights),
        "several inputs": len(inputs) > 1,
        "several outputs": len(results) > 1,
    }
    return found | {name for name, holds in special.items() if holds}


SPECIAL = {"grouped", "depthwise", "dilated", "shared layer", "several inputs", "several outputs"}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), align=st.sampled_from([1, 1, 4]), cost=st.sampled_from(COSTS))
def test_function_is_preserved(seed: int, align: int, cost: CostModel) -> None:
    """Wherever channels meet, whatever is dead, and whether copies pay or not."""
    check(_drawn(seed, most=3), align, cost)


def superfluous_and_gone(seed: int) -> tuple[int, int]:
    """Return how many filters of a random network brute force calls removable, and how many of them went."""
    prepared = _drawn(seed)
    before = dict(prepared.folded.named_parameters())
    free = removable_filters(prepared.folded, prepared.cases[0])
    edited, _ = remove_from(prepared, (1,), Macs(), stage="test")
    after = dict(edited.named_parameters())
    upside_down = {str(argument(node, "weight").target) for node in prepared.folded.graph.nodes if _is_transposed(node)}
    possible = gone = 0
    for name, count in free.items():
        rows = 1 if name in upside_down else 0
        total = before[name].shape[rows]
        left = after[name].shape[rows] if name in after else 0
        wanted = min(count, total - 1)  # one filter stays
        possible += wanted
        gone += min(wanted, total - left)
    return possible, gone


def _is_transposed(node: Node) -> bool:
    return node.op == "call_function" and operator(node) is aten.conv_transpose2d


@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 100), marks=pytest.mark.slow)])
def test_most_of_what_could_go_goes(seeds: range) -> None:
    """A planner that removes nothing preserves every function; brute force says what could have gone."""
    counts = [superfluous_and_gone(seed) for seed in seeds]
    possible, gone = (sum(numbers) for numbers in zip(*counts, strict=True))
    assert possible > 3 * len(counts)
    assert gone >= SHARE * possible


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_function_is_preserved_on_many() -> None:
    """500 graphs, every family of operators in at least 20 of them, and hardly one that is refused."""
    found: Counter[str] = Counter()
    refused = 0
    for seed in range(500):
        prepared = _drawn(seed)
        found.update(families(prepared))
        try:
            check(prepared, cost=COSTS[seed % len(COSTS)])
        except RemovalError:  # anything else is a failure
            refused += 1
    assert set(found) == set(FAMILIES) | SPECIAL
    assert min(found.values()) >= 20, found
    assert refused < 0.02 * 500
