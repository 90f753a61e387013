"""The operators of MIL, one module per family; importing this package registers all of them."""

from pdp_export.runtimes.mil.operators import (
    activation,
    attention,
    convolution,
    creation,
    elementwise,
    gather,
    lists,
    matrix,
    normalization,
    pooling,
    quantization,
    rearranging,
    recurrent,
    reduction,
    resampling,
    resizing,
    scatter,
    selection,
    shaping,
    slicing,
)

__all__ = [
    "activation", "attention", "convolution", "creation", "elementwise", "gather", "lists", "matrix", "normalization",
    "pooling", "quantization", "rearranging", "recurrent", "reduction", "resampling", "resizing", "scatter",
    "selection", "shaping", "slicing",
]  # fmt: skip
