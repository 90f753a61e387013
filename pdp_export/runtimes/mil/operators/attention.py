"""Attention. Meaning: coremltools ``mil/ops/defs/iOS18/transformers.py``."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from pdp_export.runtimes.mil.registry import check_size, operator


@operator("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """``softmax(Q K^T / sqrt(E) + mask) V``; a mask of truths keeps what is true, one of numbers is added."""
    check_size([*query.shape[:-1], key.shape[-2]])
    if math.prod(query.shape) == 0:
        return query.new_zeros(*query.shape[:-1], value.shape[-1])
    return F.scaled_dot_product_attention(query, key, value, attn_mask)
