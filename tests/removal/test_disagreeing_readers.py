"""Readers of one tensor whose sets of channels overlap in the ways that other tools order channels for.

Ordering them so that most readers take a contiguous range is what UPSCALE is about (Wan et al. 2023, arXiv 2307.08771,
section 3.3). A gather costs a runtime no more than a slice, so nothing is ordered here; but the sets must be served
exactly, whatever their shape.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import CostModel, Macs, Never
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import prepare
from tests.removal.cost_models import NoGathers, NoSums
from tests.removal.networks import randomised

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))

SETS: dict[str, list[set[int]]] = {
    "cyclic": [{0, 1}, {1, 2}, {0, 2, 3}],
    "forced order": [{0, 1, 2}, {0, 2}, {1, 2}, {3}],
    "nested": [{0, 1}, {0}],
    "growing": [{0}, {0, 1}, {0, 1, 2}, {0, 1, 2}],
    "path": [{0, 1, 2}, {2, 3, 4}, {4, 5, 6}],
    "sliding": [{0, 1, 2}, {1, 2, 3}, {2, 3, 4}],
    "star": [{0, 1}, {0, 2}, {0, 3}],
    "ring of pairs": [{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 0}],
    "disjoint": [{0, 1}, {2, 3}],
}


class Readers(nn.Module):
    """One producer, or two that are concatenated, and a reader for each set."""

    def __init__(self, sets: list[set[int]], producers: int) -> None:
        super().__init__()
        self.producers = nn.ModuleList([nn.Conv2d(3, 8 // producers, 3, padding=1) for _ in range(producers)])
        self.readers = nn.ModuleList([nn.Conv2d(8, 2, 3, padding=1) for _ in sets])
        for reader, kept in zip(self.readers, sets, strict=True):
            reader.weight.data[:, sorted(set(range(8)) - kept)] = 0  # type: ignore[union-attr, operator]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.relu(producer(x)) for producer in self.producers]
        x = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return tuple(reader(x) for reader in self.readers)


def widths(sets: list[set[int]], producers: int, cost: CostModel) -> tuple[int, list[int]]:
    """Return how many channels are made, and how many each reader reads in all."""
    model = randomised(Readers(sets, producers)).eval()
    module, report = remove_from(prepare(model, (X,), None), (1,), cost, stage="test")
    assert report.proof_error <= LIMIT
    sizes = {name: value.shape for name, value in module.state_dict().items() if "weight" in name}
    made = sum(size[0] for name, size in sizes.items() if name.startswith("producers"))
    reads = [
        sum(size[1] for name, size in sizes.items() if name.startswith(f"readers.{number}."))
        for number in range(len(sets))
    ]
    return made, reads


def _spread(channel: int, producers: int) -> int:
    """Deal the channels out to the producers in turns."""
    return channel % producers * (8 // producers) + channel // producers


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("producers", [1, 2])
def test_every_reader_reads_its_own_set(name: str, producers: int) -> None:
    """A plan for contiguous ranges leaves some readers with more than they asked for."""
    sets = [{_spread(channel, producers) for channel in kept} for kept in SETS[name]]
    assert widths(sets, producers, Macs()) == (len(set.union(*sets)), [len(kept) for kept in sets])


@pytest.mark.parametrize("name", ["cyclic", "path", "star", "disjoint"])
def test_other_ways_to_serve_them(name: str) -> None:
    """The union for all, a copy of the producer for each, and classes, are the same function."""
    sets = SETS[name]
    union, own = len(set.union(*sets)), [len(kept) for kept in sets]
    assert widths(sets, 1, Never()) == (union, [union] * len(sets))
    assert widths(sets, 1, NoSums()) == (sum(own), own)
    assert widths(sets, 1, NoGathers()) == (union, own)
