"""Figures that tell whether a mask is sharp, settled, and where it should be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pdp_export.pruning.masks import Mask
from pdp_export.pruning.records import MaskStatistics

_HALF, _LOW, _HIGH = 0.5, 0.05, 0.95
_SHARP = 100.0  # under this sharpness hardening was seen to change the function
_FUZZY = 0.1  # fuzzy weights beyond this share of the kept ones do the same
_GAIN = 2.0  # unclipped, larger boundary gains threw weights off the threshold
_NAMED = 3


@torch.no_grad()
def mask_statistics(mask: Mask, before: Tensor | None = None) -> tuple[MaskStatistics, Tensor]:
    """Return the state of a mask and its kept positions, to be passed as `before` next time.

    What is zero anyway is neither fuzzy nor soft, whatever its gate: a sparse network may be pruned again.
    """
    soft, scores, method = mask.soft(), mask.scores(), mask.method
    kept = soft >= _HALF if method.has_gap else soft > 0
    fuzzy = ((soft > _LOW) & (soft < _HIGH) & (scores > 0)).float().mean() if method.has_gap else 0.0
    sharpness = (mask.scale(scores) / mask.tau)[mask.threshold > 0]
    row = MaskStatistics(
        name=mask.name,
        parameters=mask.parameter_names,
        size=mask.size,
        asked=None if mask.target is None else mask.target / mask.size,
        current=mask.pruned / mask.size,
        threshold=float(mask.threshold.mean()) if mask.pruned else 0.0,
        sharpness=float(sharpness.amin()) if mask.pruned and sharpness.numel() else 0.0,
        gain=float(method.boundary_gain(mask.threshold, mask.tau).amax()) if mask.pruned else 1.0,
        clip=method.clip,
        gap=method.has_gap,
        fuzzy=float(fuzzy),
        churn=None if before is None else float((kept != before).float().mean()),
    )
    return row, kept


def limits(row: MaskStatistics) -> dict[str, float]:
    """Return the limit of each figure that can be a danger to this mask: a least sharpness, most fuzzy, most gain."""
    if row.current == 0 or row.threshold == 0:
        return {}
    soft = {"sharpness": _SHARP, "fuzzy": _FUZZY * (1 - row.current)} if row.gap else {}
    return soft | ({} if row.clip is not None else {"gain": _GAIN})


def dangers(row: MaskStatistics) -> tuple[str, ...]:
    """Return the figures of a mask that are beyond their limit."""
    excess = {name: getattr(row, name) - limit for name, limit in limits(row).items()}
    return tuple(name for name, over in excess.items() if (-over if name == "sharpness" else over) > 0)


def warnings_from(rows: Sequence[MaskStatistics]) -> list[str]:
    """Return one warning per danger, naming the masks in it."""
    found = {row.name: set(dangers(row)) for row in rows}
    soft = [name for name, figures in found.items() if figures & {"sharpness", "fuzzy"}]
    steep = [name for name, figures in found.items() if "gain" in figures]
    warnings = []
    if soft:
        warnings.append(f"{named(soft)} still soft, so hardening may change the function: train longer or sharper")
    if steep:
        warnings.append(f"{named(steep)} at a boundary gain over {_GAIN:g} without a clip: training may be unstable")
    return warnings


def named(names: Sequence[str]) -> str:
    """Return how many masks there are, with the first names."""
    word = "mask is" if len(names) == 1 else "masks are"
    return f"{len(names)} {word} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
