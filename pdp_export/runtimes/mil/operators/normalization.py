"""Normalisations. Meaning: coremltools ``mil/ops/defs/iOS15/normalization.py``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pdp_export.runtimes.mil.operators.activation import per_channel
from pdp_export.runtimes.mil.registry import operator


@operator("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta``, per channel (axis 1)."""
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


@operator("instance_norm")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Normalise each channel of each sample over its spatial axes."""
    axes = tuple(range(2, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + epsilon)
    y = y if gamma is None else y * per_channel(gamma, x)
    return y if beta is None else y + per_channel(beta, x)


@operator("l2_norm")
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Divide by the root of the sum of squares over the last three axes."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@operator("layer_norm")
def layer_norm(
    x: Tensor,
    axes: tuple[int, ...] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise over `axes` (all by default); `gamma` and `beta` have the shape of those axes."""
    chosen = sorted(axis % x.ndim for axis in (range(x.ndim) if axes is None else axes))
    if chosen == list(range(x.ndim - len(chosen), x.ndim)):
        return F.layer_norm(x, x.shape[x.ndim - len(chosen) :], gamma, beta, epsilon)
    shape = [size if axis in chosen else 1 for axis, size in enumerate(x.shape)]
    variance, mean = torch.var_mean(x, chosen, correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + epsilon)
    y = y if gamma is None else y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


@operator("local_response_norm")
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """``x / (k + alpha / size * sum of squares over `size` neighbouring channels) ** beta``."""
    return F.local_response_norm(x, size, alpha, beta, k)
