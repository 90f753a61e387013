"""The end of pruning: exact zeros in the weights, counted and proven."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pdp_export.errors import ProofError
from pdp_export.pruning.masks import Mask
from pdp_export.pruning.records import HardenedMask, HardenReport
from pdp_export.pruning.statistics import named

_HALF = 0.5 + 1e-3  # no soft value below the threshold is larger, but for ties


@torch.no_grad()
def harden_masks(masks: Sequence[Mask], warnings: Sequence[str], fold: bool) -> HardenReport:
    """Write +0.0 over what each mask prunes, take the masks off, and report what was written.

    With `fold` the soft mask is multiplied into what is kept.

    Raises:
        ProofError: when the zeros in the weights are not the zeros asked for.
        TrainingStoppedError: when weights hold NaN or Inf.
    """
    for mask in masks:
        mask.check_finite()
    rows = [_harden(mask, fold) for mask in masks]
    torn = [row.name for row in rows if row.gap > _HALF] if fold else []
    if torn:
        warnings = [*warnings, f"{named(torn)} cut among equal scores, which changes the function"]
    parameters = [parameter for mask in masks for parameter in mask.parameters_masked()]
    for mask in masks:
        mask.detach()
    return HardenReport(
        masks=tuple(rows),
        zeros=sum(int((parameter == 0).sum()) for parameter in parameters),
        elements=sum(parameter.numel() for parameter in parameters),
        warnings=tuple(warnings),
    )


def _harden(mask: Mask, fold: bool) -> HardenedMask:
    soft = mask.soft()
    keep, factor = mask.harden(fold)
    _prove(mask, keep)
    return HardenedMask(
        name=mask.name,
        parameters=mask.parameter_names,
        size=mask.size,
        pruned=mask.pruned,
        gap=float((soft - factor).abs().amax()) if mask.pruned else 0.0,
    )


def _prove(mask: Mask, keep: Tensor) -> None:
    """Compare the weights themselves with the order, not the mask with itself."""
    dead = int((~keep).sum())
    alive = sum(
        int((parameter * ~mask.keep_for(keep, parameter)).count_nonzero()) for parameter in mask.parameters_masked()
    )
    if dead != mask.target or alive:
        raise ProofError(
            f"{mask.target} of {mask.size} were to be zero; {dead} are marked and {alive} marked weights are not zero",
            where=mask.name,
        )
