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
        keys = self._keys(scores)
        if self.need <= 0:
            return [0] * len(keys)
        # Floats that are not negative order like their bits, so 31 halvings find the exact threshold.
        low, high = -1, _LARGEST
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._saved(self._up_to(keys, middle)) >= self.need else (middle, high)
        counts, limits = self._up_to(keys, low), self._up_to(keys, high)
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

    def _up_to(self, keys: Sequence[Tensor], bits: int) -> list[int]:
        """Return how many keys of each mask are at most the float with these bits, within the caps."""
        if bits < 0:
            return [0] * len(keys)
        threshold = float(np.int32(bits).view(np.float32))
        below = torch.stack([(key <= threshold).sum() for key in keys]).tolist()
        return [min(n, cap) if cost > 0 else 0 for n, cap, cost in zip(below, self.caps, self.costs, strict=True)]

    def _saved(self, counts: Sequence[int]) -> float:
        return sum(cost * count for cost, count in zip(self.costs, counts, strict=True))
