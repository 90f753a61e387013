"""Pruning an average of the weights (EMA, SWA) instead of the weights themselves."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from pdp_export.errors import UsageError
from pdp_export.pruning.masks import Mask

if TYPE_CHECKING:
    from pdp_export.pruning.pruner import Pruner


def rebind(pruner: Pruner, copied: nn.Module) -> Pruner:
    """Return a Pruner over `copied`, a deep copy of the pruner's model made after the pruner was attached.

    It has the progress and the final ratios of `pruner`; thresholds come from the weights of the
    copy. Neither touches the other afterwards::

        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        ...                                     # averaged.update_parameters(model) after every step
        average = rebind(pruner, averaged.module)
        update_bn(batches, averaged)            # only for models with BatchNorm
        average.harden()

    Raises:
        UsageError: when the copy lacks the masks, or is the pruner's own model.
    """
    found = {module.name: module for module in copied.modules() if isinstance(module, Mask)}
    if set(found) != {mask.name for mask in pruner.masks}:
        raise UsageError(
            "the copy does not carry the masks of this Pruner",
            where="rebind",
            hint="make the copy (AveragedModel, deepcopy) after the Pruner is built and before it hardens",
        )
    if any(found[mask.name] is mask for mask in pruner.masks):
        raise UsageError("this is the Pruner's own model, not a copy of it", where="rebind")
    memo: dict[int, Any] = {id(mask): found[mask.name] for mask in pruner.masks}
    twin = copy.deepcopy(pruner, {**memo, id(pruner.model): copied})  # everything else becomes the twin's own
    twin.load_state_dict(pruner.state_dict())
    twin.refresh()
    return twin
