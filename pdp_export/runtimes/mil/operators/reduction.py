"""Reductions. Meaning: coremltools ``mil/ops/defs/iOS15/reduction.py``; iOS 17 adds `output_dtype`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import operator
from pdp_export.runtimes.mil.types import torch_type

Axes = tuple[int, ...] | None


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.mean(axes, keepdim=keep) if x.is_floating_point() else x.double().mean(axes, keepdim=keep).to(x.dtype)


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _as_float(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply to floats; integers are computed in float64 and cut off, since the result has their type."""
    return function(x) if x.is_floating_point() else function(x.double()).to(x.dtype)


_REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "reduce_sum": _sum,
    "reduce_mean": _mean,
    "reduce_prod": _prod,
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "reduce_sum_square": lambda x, axes, keep: _sum(x * x, axes, keep),
    "reduce_l1_norm": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: _as_float(lambda y: _sum(y * y, axes, keep).sqrt(), x),
    "reduce_log_sum": lambda x, axes, keep: _as_float(lambda y: _sum(y, axes, keep).log(), x),
    "reduce_log_sum_exp": lambda x, axes, keep: _as_float(lambda y: torch.logsumexp(y, axes, keepdim=keep), x),
}


def _register(name: str, reduction: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> None:
    @operator(name)
    def reduce(x: Tensor, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
        if x.ndim == 0:
            return reduction(x.reshape(1), (0,), False)
        return reduction(x, tuple(range(x.ndim)) if axes is None else axes, keep_dims)


for _name, _reduction in _REDUCTIONS.items():
    _register(_name, _reduction)


@operator("reduce_argmax")
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Index of the largest value along an axis; among equals any."""
    return torch.argmax(x, axis, keepdim=keep_dims).to(torch_type(output_dtype))


@operator("reduce_argmin")
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Index of the smallest value along an axis; among equals any."""
    return torch.argmin(x, axis, keepdim=keep_dims).to(torch_type(output_dtype))
