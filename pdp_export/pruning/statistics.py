"""Figures that tell whether a mask is sharp, settled, and where it should be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pdp_export.pruning.masks import Mask
from pdp_export.pruning.records import MaskStatistics

_HALF, _LOW, _HIGH = 0.5, 0.05, 0.95
_SHARP = 100.0  # t^2 / tau under which hardening was seen to change the function
_NAMED = 3


def sharpness(mask: Mask) -> float:
    """Return t^2 / tau; 0 while nothing is pruned."""
    return float(mask.threshold.square() / mask.tau) if mask.pruned else 0.0


@torch.no_grad()
def mask_statistics(mask: Mask, before: Tensor | None) -> tuple[MaskStatistics, Tensor]:
    """Return the state of a mask and its kept positions, to be passed as `before` next time."""
    soft = mask.soft()
    kept = soft >= _HALF
    sharp = sharpness(mask)
    row = MaskStatistics(
        name=mask.name,
        parameters=mask.parameter_names,
        size=mask.size,
        asked=None if mask.target is None else mask.target / mask.size,
        current=mask.pruned / mask.size,
        threshold=float(mask.threshold) if mask.pruned else 0.0,
        sharpness=sharp,
        gain=0.5 + sharp / 2,
        fuzzy=float(((soft > _LOW) & (soft < _HIGH)).float().mean()),
        churn=None if before is None else float((kept != before).float().mean()),
    )
    return row, kept


def softness_warnings(masks: Sequence[Mask]) -> list[str]:
    """Return a warning that names the masks whose hardening changes the function."""
    soft = [mask.name for mask in masks if mask.pruned and sharpness(mask) < _SHARP]
    if not soft:
        return []
    names = ", ".join(soft[:_NAMED]) + (", ..." if len(soft) > _NAMED else "")
    return [f"{len(soft)} masks are still soft (t^2/tau < {_SHARP:.0f}), so hardening changes the function: {names}"]
