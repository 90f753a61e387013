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
from pdp_export.removal.costs import Macs
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import prepare
from tests.removal.generator import SIZE, Builder, masked

KINDS = {"plain", "grouped", "depthwise", "gate", "attention", "resized", "residual", "concatenation", "split"}


def check(seed: int, align: int = 1) -> list[str]:
    """Remove channels from one random network; return the kinds of blocks in it."""
    draw = Random(seed)
    torch.manual_seed(seed)
    builder = Builder(draw)
    model = masked(builder.network(draw.randint(1, 5)), draw).eval()
    program = capture(model, (torch.randn(2, 3, SIZE, SIZE),), {0: {0: "batch"}})
    _, report = remove_from(prepare(program, None, None), align, Macs(), stage="test")
    assert report.proof_error <= LIMIT
    return builder.kinds


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), align=st.sampled_from([1, 1, 4]))
def test_function_is_preserved(seed: int, align: int) -> None:
    """Wherever channels meet and whatever is dead."""
    check(seed, align)


@pytest.mark.slow
def test_function_is_preserved_on_many() -> None:
    """500 graphs, and every kind of block in at least 20 of them."""
    found = Counter(kind for seed in range(500) for kind in set(check(seed)))
    assert set(found) == KINDS
    assert min(found.values()) >= 20
