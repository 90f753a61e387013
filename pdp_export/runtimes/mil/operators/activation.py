"""Activation functions. Meaning: coremltools ``mil/ops/defs/iOS15/activation.py`` (unchanged in later opsets)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pdp_export.runtimes.mil.registry import elementwise, operator

elementwise("relu", torch.relu, "x")
elementwise("relu6", F.relu6, "x")
elementwise("sigmoid", torch.sigmoid, "x")
elementwise("silu", F.silu, "x")
elementwise("softsign", F.softsign, "x")


@operator("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``min(beta, x)`` where x >= 0, else ``min(beta, alpha * x)``."""
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


@operator("elu")
def elu(x: Tensor, alpha: float) -> Tensor:
    """X where x > 0, else ``alpha * (e^x - 1)``."""
    return F.elu(x, alpha)


@operator("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit, exact or by one of its two approximations."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"unknown mode {mode!r}")


@operator("leaky_relu")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """X where x >= 0, else ``alpha * x``."""
    return torch.where(x >= 0, x, alpha * x)


@operator("linear_activation")
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * x + beta``."""
    return alpha * x + beta


@operator("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """X where x > 0, else ``alpha * x`` with one alpha per channel (axis 1)."""
    return torch.where(x > 0, x, per_channel(alpha, x) * x)


@operator("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * tanh(beta * x)``."""
    return alpha * torch.tanh(beta * x)


@operator("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``min(max(alpha * x + beta, 0), 1)``."""
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("softplus")
def softplus(x: Tensor) -> Tensor:
    """``log(1 + e^x)``, without the threshold that torch has."""
    return torch.logaddexp(x, torch.zeros_like(x))


@operator("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha * log(1 + e^(beta * x))`` with one alpha and beta per channel (axis 1)."""
    return per_channel(alpha, x) * softplus(per_channel(beta, x) * x)


@operator("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """``exp(x) / sum(exp(x))`` along an axis."""
    return torch.softmax(x, axis)


@operator("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """X where x >= alpha, else 0."""
    return torch.where(x >= alpha, x, 0.0)


def per_channel(vector: Tensor, x: Tensor) -> Tensor:
    """Return a vector over axis 1 of `x` with axes of length 1 behind it."""
    return vector.reshape(-1, *[1] * (x.ndim - 2))
