"""Brings all variants to the same form, so that nothing but their channels is compared.

BatchNorms that follow a convolution are folded in every variant, and activations write to new tensors, as those of
captured programs do.
"""

from __future__ import annotations

import warnings

from torch import nn


def folded(model: nn.Module) -> nn.Module:
    """Return the module with BatchNorms folded into the convolutions in front of them, and nothing done in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own module uses what torch has deprecated
        from torch.fx.experimental.optimization import fuse
    result: nn.Module = fuse(model.eval()).eval()
    for module in result.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return result
