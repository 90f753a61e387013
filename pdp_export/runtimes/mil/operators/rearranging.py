"""Moves of elements between channels, space and batch.

Meaning: coremltools ``mil/ops/defs/iOS15/tensor_transformation.py`` and ``iOS16/tensor_transformation.py``.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from pdp_export.runtimes.mil.registry import operator


@operator("pixel_shuffle")
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """(n, C f^2, H, W) to (n, C, H f, W f); the channel is the slowest of the three."""
    return F.pixel_shuffle(x, upscale_factor)


@operator("pixel_unshuffle")
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """The inverse of pixel_shuffle."""
    return F.pixel_unshuffle(x, downscale_factor)


@operator("depth_to_space")
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """(n, C b^2, H, W) to (n, C, H b, W b); the channel is the fastest of the three, as in TensorFlow."""
    n, channels, height, width = x.shape
    b = block_size
    y = x.reshape(n, b, b, channels // (b * b), height, width)
    return y.permute(0, 3, 4, 1, 5, 2).reshape(n, channels // (b * b), height * b, width * b)


@operator("space_to_depth")
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """The inverse of depth_to_space."""
    n, channels, height, width = x.shape
    b = block_size
    y = x.reshape(n, channels, height // b, b, width // b, b)
    return y.permute(0, 3, 5, 1, 2, 4).reshape(n, channels * b * b, height // b, width // b)


@operator("space_to_batch")
def space_to_batch(x: Tensor, block_shape: tuple[int, ...], paddings: tuple[int, ...]) -> Tensor:
    """Pad, then move each place inside a block to its own part of the batch."""
    top, bottom, left, right = paddings
    x = F.pad(x, (left, right, top, bottom))
    n, channels, height, width = x.shape
    b, c = block_shape
    y = x.reshape(n, channels, height // b, b, width // c, c)
    return y.permute(3, 5, 0, 1, 2, 4).reshape(b * c * n, channels, height // b, width // c)


@operator("batch_to_space")
def batch_to_space(x: Tensor, block_shape: tuple[int, ...], crops: tuple[int, ...]) -> Tensor:
    """The inverse of space_to_batch: interleave parts of the batch in space, then crop."""
    top, bottom, left, right = crops
    total, channels, height, width = x.shape
    b, c = block_shape
    n = total // (b * c)
    y = x.reshape(b, c, n, channels, height, width).permute(2, 3, 4, 0, 5, 1)
    y = y.reshape(n, channels, height * b, width * c)
    return y[:, :, top : height * b - bottom, left : width * c - right]
