"""How many elements each mask prunes in the end, decided once from the scores.

One global ranking decides (PDP, Algorithm 1 as reported): what falls below one common threshold
is each layer's share. A cap keeps any single layer from being emptied; what the cap saves is
taken from the other layers, so that the total is met exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pdp_export.errors import UsageError
from pdp_export.pruning.patterns import Channel, Pattern


class Budget:
    """What a pattern's sparsity means for masks of these sizes, checked before any training.

    Raises:
        UsageError: when the caps do not leave enough to prune.
    """

    def __init__(self, pattern: Pattern, sizes: Sequence[int], max_layer_sparsity: float) -> None:
        if not 0 < max_layer_sparsity <= 1:
            raise UsageError(f"max_layer_sparsity is {max_layer_sparsity}, it must lie in (0, 1]", where="Pruner")
        self.pattern = pattern
        if isinstance(pattern, Channel):
            self.caps = channel_caps(sizes, max_layer_sparsity, pattern.align)
        else:
            self.caps = weight_caps(sizes, max_layer_sparsity)
        asked, most, size = round(pattern.sparsity * sum(sizes)), sum(self.caps), sum(sizes)
        if asked > most:
            unit = "channels" if isinstance(pattern, Channel) else "weights"
            raise UsageError(
                f"sparsity {pattern.sparsity} cannot be reached: {asked} of {size} {unit} would have to go, "
                f"at most {most} can",
                where="pruning.sparsity",
                hint=f"ask for at most {math.floor(1000 * most / size) / 1000}, or raise max_layer_sparsity, "
                "or lower align",
            )

    def counts(self, scores: Sequence[Tensor]) -> list[int]:
        """Return how many weights or channels each mask prunes in the end."""
        if isinstance(self.pattern, Channel):
            return channel_counts(scores, self.pattern.sparsity, self.caps, self.pattern.align)
        return weight_counts(scores, self.pattern.sparsity, self.caps)


def weight_counts(scores: Sequence[Tensor], sparsity: float, caps: Sequence[int]) -> list[int]:
    """Return the weights to prune per layer; their sum is ``round(sparsity * n)``.

    `scores` holds ``|w|`` of each layer, shape (n_l,); `caps` the most that each layer may lose.
    """
    return _global_counts(scores, round(sparsity * sum(len(score) for score in scores)), caps)


def channel_counts(scores: Sequence[Tensor], sparsity: float, caps: Sequence[int], align: int) -> list[int]:
    """Return the channels to prune per group, with kept counts at multiples of `align`.

    Scores are divided by their group's mean first, since filters of different shapes live on
    different scales. The total is met up to half a block.
    """
    total = round(sparsity * sum(len(score) for score in scores))
    normalised = [score / score.mean().clamp(min=torch.finfo(score.dtype).tiny) for score in scores]
    widths = [len(score) for score in scores]
    ideal = [width - count for width, count in zip(widths, _global_counts(normalised, total, caps), strict=True)]
    kept = _round_to_blocks(ideal, widths, sum(widths) - total, align)
    return [width - count for width, count in zip(widths, kept, strict=True)]


def weight_caps(sizes: Sequence[int], max_layer_sparsity: float) -> list[int]:
    """Return the most weights that each layer may lose; one weight at least stays."""
    return [min(size - 1, math.floor(size * max_layer_sparsity)) for size in sizes]


def channel_caps(widths: Sequence[int], max_layer_sparsity: float, align: int) -> list[int]:
    """Return the most channels that each group may lose; one block of `align` at least stays."""
    caps = []
    for width in widths:
        least = max(1, width - math.floor(width * max_layer_sparsity))
        caps.append(width - min(width, math.ceil(least / align) * align))
    return caps


def _global_counts(scores: Sequence[Tensor], total: int, caps: Sequence[int]) -> list[int]:
    """Rank all scores together; layers above their cap are fixed there and the rest ranked again."""
    counts: dict[int, int] = {}
    free = list(range(len(scores)))
    while free:
        shares = _below_common_threshold([scores[index] for index in free], total - sum(counts.values()))
        over = [index for index, share in zip(free, shares, strict=True) if share > caps[index]]
        if not over:
            counts.update(zip(free, shares, strict=True))
            break
        counts.update({index: caps[index] for index in over})
        free = [index for index in free if index not in counts]
    return [counts[index] for index in range(len(scores))]


def _below_common_threshold(scores: Sequence[Tensor], total: int) -> list[int]:
    """Return how many of the `total` smallest scores lie in each layer; ties go to earlier layers."""
    if total <= 0:
        return [0] * len(scores)
    threshold = torch.cat(list(scores)).kthvalue(total).values
    counts = [int((score < threshold).sum()) for score in scores]
    left = total - sum(counts)
    for index, score in enumerate(scores):
        taken = min(left, int((score == threshold).sum()))
        counts[index] += taken
        left -= taken
    return counts


def _round_to_blocks(ideal: Sequence[int], widths: Sequence[int], total: int, align: int) -> list[int]:
    """Round kept counts down to blocks, then hand the rest to the groups that lost most.

    A group keeps at least one block, or all its channels where it has fewer; the last block of a
    width that is no multiple of `align` is shorter.
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
