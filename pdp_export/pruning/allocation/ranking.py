"""One ranking over all masks: what matters least for what it costs goes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LARGEST = int(np.float32(np.finfo(np.float32).max).view(np.int32))


@dataclass(frozen=True)
class Ranking:
    """Prunes the smallest ``score^2 / cost`` of all masks together until enough is saved.

    The loss of a small weight grows with its square, so this is the first-order answer to the knapsack
    problem "least harm for the cost": among weights equally dear it is plain global magnitude (PDP,
    Algorithm 1 as reported). The last element pruned is the one that reaches the goal; equal ranks go
    mask by mask.

    Attributes:
        costs: What one element of each mask saves; an element that saves nothing stays.
        caps: The most elements that each mask may lose.
        need: What must be saved in all, at most ``sum(costs * caps)``.
    """

    costs: Sequence[float]
    caps: Sequence[int]
    need: float

    def counts(self, scores: Sequence[Tensor]) -> list[int]:
        """Return how many elements each mask prunes; `scores` holds float32 vectors, not negative."""
        keys, below = self._keys(scores), [0] * len(scores)
        if self.need <= 0:
            return below
        # Floats that are not negative order like their bits, so 31 halvings find the exact threshold.
        low, high = -1, _LARGEST
        while high - low > 1:
            middle = (low + high) // 2
            inside = [key <= _as_float(middle) for key in keys]
            found = torch.stack([mask.count_nonzero() for mask in inside]).tolist()
            enough = self._saved(self._capped(_sums(below, found))) >= self.need
            low, high = (low, middle) if enough else (middle, high)
            below = below if enough else _sums(below, found)
            keys = [_chosen(key, mask, n, enough) for key, mask, n in zip(keys, inside, found, strict=True)]
        return self._with_ties(self._capped(below), self._capped(_sums(below, [len(key) for key in keys])))

    def _with_ties(self, counts: list[int], limits: list[int]) -> list[int]:
        """Add elements that rank exactly at the threshold, up to these limits, while something is missing."""
        for index, cost in enumerate(self.costs):
            missing = self.need - self._saved(counts)
            if missing > 0 and limits[index] > counts[index]:
                counts[index] += min(limits[index] - counts[index], int(-(-missing // cost)))
        return counts

    def _keys(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return the root of ``score^2 / cost``: the square of a small float32 would vanish."""
        dearest = max(self.costs)
        roots = [(cost / dearest) ** 0.5 if cost > 0 else 1.0 for cost in self.costs]
        return [score.float() / root for score, root in zip(scores, roots, strict=True)]

    def _capped(self, counts: Sequence[int]) -> list[int]:
        return [min(n, cap) if cost > 0 else 0 for n, cap, cost in zip(counts, self.caps, self.costs, strict=True)]

    def _saved(self, counts: Sequence[int]) -> float:
        return sum(cost * count for cost, count in zip(self.costs, counts, strict=True))


def _as_float(bits: int) -> float:
    return float(np.int32(bits).view(np.float32))


def _sums(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _chosen(key: Tensor, inside: Tensor, found: int, wanted: bool) -> Tensor:
    """Return the keys that are still in question; all of them without a copy."""
    if found == (len(key) if wanted else 0):
        return key
    return key[inside] if wanted else key[~inside]
