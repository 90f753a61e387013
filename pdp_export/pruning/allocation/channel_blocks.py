"""How many channels each group prunes: in whole blocks, by rank or by cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pdp_export.pruning.allocation.ranking import Ranking

if TYPE_CHECKING:
    from pdp_export.graph.channel_work import ChannelWork


def channel_caps(widths: Sequence[int], max_layer_sparsity: float, align: int) -> list[int]:
    """Return the most channels that each group may lose; one block of `align` at least stays."""
    caps = []
    for width in widths:
        least = max(1, width - math.floor(width * max_layer_sparsity))
        caps.append(width - min(width, math.ceil(least / align) * align))
    return caps


def rounded_to_blocks(ideal: Sequence[int], widths: Sequence[int], total: int, align: int) -> list[int]:
    """Round kept counts down to blocks, then hand the rest to the groups that lost most.

    A group keeps at least one block, or all its channels where it has fewer; the last block of a
    width that is no multiple of `align` is shorter. The total kept is met up to half a block.
    """
    kept = [
        width if count == width else min(width, max(align, count // align * align))
        for count, width in zip(ideal, widths, strict=True)
    ]
    order = sorted(range(len(kept)), key=lambda index: (kept[index] - ideal[index], index))
    for index in order:
        block = min(align, widths[index] - kept[index])
        if block and sum(kept) + block / 2 <= total:
            kept[index] += block
    return kept


@dataclass(frozen=True)
class ChannelRanking:
    """Ranks the channels of all groups together.

    Scores are divided by their group's mean first, since filters of different shapes live on
    different scales.
    """

    widths: Sequence[int]
    caps: Sequence[int]
    align: int
    pruned: int

    def counts(self, scores: Sequence[Tensor]) -> list[int]:
        """Return how many channels each group prunes, with kept counts at multiples of `align`."""
        scaled = [score / score.mean().clamp(min=torch.finfo(score.dtype).tiny) for score in scores]
        counts = Ranking([1] * len(scaled), self.caps, self.pruned).counts(scaled)
        ideal = [width - count for width, count in zip(self.widths, counts, strict=True)]
        kept = rounded_to_blocks(ideal, self.widths, sum(self.widths) - self.pruned, self.align)
        return [width - count for width, count in zip(self.widths, kept, strict=True)]


@dataclass(frozen=True)
class ChannelBudget:
    """Takes block after block from the groups until the work that is left fits the limit.

    Next goes the block that is the smallest share of its group's remaining ``sum(score^2)`` per work that
    it saves *now*: a channel works in its own layers and in those that read it, and the other groups
    decide how wide these still are. A share of what remains is free of the filters' scale, which a
    BatchNorm undoes anyway, and it grows as a group narrows, so that no dear group is emptied.
    """

    work: ChannelWork
    limit: float
    widths: Sequence[int]
    caps: Sequence[int]
    align: int

    def counts(self, scores: Sequence[Tensor]) -> list[int]:
        """Return how many channels each group prunes; equal ranks go to the earlier group."""
        energy = [self._energy(score) for score in scores]
        widths, least = np.array(self.widths), np.array(self.widths) - np.array(self.caps)
        kept = widths.copy()
        while self.work.of(kept) > self.limit:
            block = np.where(kept > least, (kept - 1) % self.align + 1, 0)
            saved = self.work.saved(kept, block)
            rank = [
                1 - line[k - b] / line[k] if b and line[k] else 0.0
                for line, k, b in zip(energy, kept, block, strict=True)
            ]
            worth = np.divide(rank, saved, out=np.full(len(kept), np.inf), where=saved > 0)
            kept[worth.argmin()] -= block[worth.argmin()]
        return [int(count) for count in widths - kept]

    @staticmethod
    def _energy(score: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the sum of the k largest ``score^2`` for k = 0..width."""
        largest_first = score.detach().double().cpu().square().sort(descending=True).values
        return np.concatenate([[0.0], largest_first.cumsum(0).numpy()])
