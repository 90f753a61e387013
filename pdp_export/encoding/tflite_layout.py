"""How the weights of a .tflite file lie, and the way back to PyTorch's layout."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WEIGHT_INPUT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "TRANSPOSE_CONV": 1,
    "CONV_3D": 1,
    "FULLY_CONNECTED": 1,
    "BATCH_MATMUL": 1,
    "EMBEDDING_LOOKUP": 1,
    "GATHER": 0,
}
"""Operator -> which of its inputs is the weight."""

_TO_TORCH = {
    "CONV_2D": (0, 3, 1, 2),  # (C_out, kH, kW, C_in/groups) -> (C_out, C_in/groups, kH, kW)
    "DEPTHWISE_CONV_2D": (3, 0, 1, 2),  # (1, kH, kW, C_out) -> (C_out, 1, kH, kW)
    "TRANSPOSE_CONV": (3, 0, 1, 2),  # (C_out, kH, kW, C_in) -> (C_in, C_out, kH, kW)
    "CONV_3D": (4, 3, 0, 1, 2),  # (kD, kH, kW, C_in, C_out) -> (C_out, C_in, kD, kH, kW)
}


def to_torch(operator: str, weight: Array) -> Array:
    """Return a view of `weight`, the weight of a TFLite `operator`, in PyTorch layout.

    Weights of operators that are not listed, FULLY_CONNECTED (C_out, C_in) among them, lie as in PyTorch.
    """
    order = _TO_TORCH.get(operator)
    return weight.transpose(order) if order and weight.ndim == len(order) else weight
