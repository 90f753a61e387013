"""Random graphs with random masks: the function stays, nothing crashes, and what could go went."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp_export.graph.capture import capture
from pdp_export.removal.channel_removal import remove_from
from pdp_export.removal.costs import Analytic, CostModel, Macs, Size
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import Prepared, prepare
from tests.removal.generator import SIZE, Builder, masked
from tests.removal.oracle import removable_filters

KINDS = {"plain", "grouped", "depthwise", "gate", "attention", "resized", "residual", "concatenation", "split"}


def _drawn(seed: int) -> tuple[Builder, Prepared]:
    draw = Random(seed)
    torch.manual_seed(seed)
    builder = Builder(draw)
    model = masked(builder.network(draw.randint(1, 5)), draw).eval()
    program = capture(model, (torch.randn(2, 3, SIZE, SIZE),), {0: {0: "batch"}})
    return builder, prepare(program, None, None)


def check(seed: int, align: int = 1, cost: CostModel | None = None) -> list[str]:
    """Remove channels from one random network; return the kinds of blocks in it."""
    builder, prepared = _drawn(seed)
    _, report = remove_from(prepared, align, cost or Macs(), stage="test")
    assert report.proof_error <= LIMIT
    return builder.kinds


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), align=st.sampled_from([1, 1, 4]), cost=st.sampled_from([Macs(), Analytic(), Size()])
)
def test_function_is_preserved(seed: int, align: int, cost: CostModel) -> None:
    """Wherever channels meet, whatever is dead, and whether copies pay or not."""
    check(seed, align, cost)


def test_most_of_what_could_go_goes() -> None:
    """A planner that removes nothing preserves every function; brute force says what could have gone."""
    possible = gone = 0
    for seed in range(12):
        _, prepared = _drawn(seed)
        before = dict(prepared.folded.named_parameters())
        free = removable_filters(prepared.folded, prepared.cases[0][0])
        edited, _ = remove_from(prepared, 1, Macs(), stage="test")
        after = dict(edited.named_parameters())
        for name, count in free.items():
            rows = 1 if "ConvTranspose" in type(prepared.folded.get_submodule(name.rpartition(".")[0])).__name__ else 0
            total = before[name].shape[rows]
            left = after[name].shape[rows] if name in after else 0
            wanted = min(count, total - 1)  # one filter stays
            possible += wanted
            gone += min(wanted, total - left)
    assert possible > 50
    assert gone >= 0.9 * possible


@pytest.mark.slow
def test_function_is_preserved_on_many() -> None:
    """500 graphs, and every kind of block in at least 20 of them."""
    found = Counter(kind for seed in range(500) for kind in set(check(seed)))
    assert set(found) == KINDS
    assert min(found.values()) >= 20
