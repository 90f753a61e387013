"""What a mask of single weights does with a method, in one call."""

from __future__ import annotations

from torch import Tensor

from pdp_export.pruning.methods import Method
from pdp_export.pruning.methods.base import masked_product


def gated_product(weight: Tensor, threshold: Tensor, tau: Tensor, method: Method) -> Tensor:
    """Return the masked weight, differentiable by the method's slope."""
    exact = weight.detach().float()
    gate = method.gate(exact, threshold, tau)
    return masked_product(weight, gate, method.slope(exact, gate, threshold, tau))
