"""Where pruned and kept part: by selection, never by a full sort; ties broken by position."""

from __future__ import annotations

import torch
from torch import Tensor


def midpoint(scores: Tensor, pruned: int) -> Tensor:
    """Return t, midway between the largest pruned and the smallest kept score.

    `scores` has shape (n,) and is not negative; ``0 <= pruned < n``. Nothing pruned gives t = 0.
    Where the two are equal, t is the next smaller score (or 0): all of the tied ones stay in the
    soft network, and hardening picks among them.
    Source: PDP, ``t = (min|W_h| + max|W_l|) / 2``.
    """
    if pruned == 0:
        return scores.new_zeros(())
    lower = scores.kthvalue(pruned).values
    above = scores > lower
    upper = torch.where(above, scores, torch.inf).amin()
    below = torch.where(scores < lower, scores, 0).amax()
    tied = scores.numel() - above.sum() > pruned  # the next score equals this one
    return torch.where(tied, below, (lower + upper) / 2)


def keep_mask(scores: Tensor, pruned: int) -> Tensor:
    """Return a bool mask of shape (n,) with exactly `pruned` False at the smallest scores.

    Among equal scores the first positions are pruned, so that the same weights always give the
    same mask.
    """
    if pruned == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    lower = scores.kthvalue(pruned).values
    below, ties = scores < lower, scores == lower
    from_ties = pruned - below.sum()
    return ~(below | (ties & (ties.cumsum(0) <= from_ties)))
