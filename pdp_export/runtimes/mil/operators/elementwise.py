"""Element-wise arithmetic, comparison, logic and casts.

Meaning: coremltools ``mil/ops/defs/iOS15/elementwise_unary.py`` and ``elementwise_binary.py``; iOS 17 widens types.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import elementwise, operator
from pdp_export.runtimes.mil.types import torch_type

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": torch.clone,
    "logical_not": torch.logical_not,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}

for _name, _function in _UNARY.items():
    elementwise(_name, _function, "x")
for _name, _combine in _BINARY.items():
    elementwise(_name, _combine, "x", "y")


@operator("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Quotient; of integers, rounded towards zero, since the result has their type."""
    whole = not (x.is_floating_point() or y.is_floating_point())
    return torch.div(x, y, rounding_mode="trunc" if whole else None)


@operator("inverse")
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """``1 / (x + epsilon)``."""
    return torch.reciprocal(x + epsilon)


@operator("log")
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """Natural logarithm of ``x + epsilon``."""
    return torch.log(x + epsilon)


@operator("rsqrt")
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """``1 / sqrt(x + epsilon)``."""
    return torch.rsqrt(x + epsilon)


@operator("clip")
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Values below `alpha` become `alpha`, above `beta` they become `beta`."""
    return torch.clamp(x, alpha, beta).to(x.dtype)


@operator("threshold")
def threshold(x: Tensor, alpha: float) -> Tensor:
    """``max(x, alpha)``."""
    return torch.clamp(x, min=alpha).to(x.dtype)


@operator("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert to another type; fractions are cut off on the way to an integer, and non-zero is true."""
    target = torch_type(dtype)
    return x != 0 if target is torch.bool else x.to(target)
