"""Matrix products. Meaning: coremltools ``mil/ops/defs/iOS15/linear.py`` (iOS 17 only widens types)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pdp_export.runtimes.mil.registry import check_size, operator

_MATRIX = 2


@operator("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``."""
    if x.is_floating_point():
        return F.linear(x, weight.to(x.dtype), bias)
    y = torch.matmul(x, weight.T)
    return y if bias is None else y + bias


@operator("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Matrix product over the last two axes, broadcast over the others; a vector cannot be transposed."""
    left = x.transpose(-1, -2) if transpose_x and x.ndim >= _MATRIX else x
    right = y.transpose(-1, -2) if transpose_y and y.ndim >= _MATRIX else y
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])  # type: ignore[no-untyped-call]
    check_size([*batch, *left.shape[-2:-1], *right.shape[-1:]])
    common = torch.promote_types(left.dtype, right.dtype)
    return torch.matmul(left.to(common), right.to(common))


@operator("einsum")
def einsum(values: tuple[Tensor, ...], equation: str) -> Tensor:
    """Product of two tensors by an equation such as ``nchw,nwhu->nchu``; axes of length 1 are broadcast."""
    terms, _, result = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, tensor in zip(terms.split(","), values, strict=True):
        for letter, size in zip(letters, tensor.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 0))
    check_size([sizes[letter] for letter in result])
    return torch.einsum(equation, *values)
