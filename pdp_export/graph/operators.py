"""Families of operators in the captured dialect, by how channels pass through them."""

from __future__ import annotations

import torch

aten = torch.ops.aten

IDENTITY = {aten.clone, aten.alias, aten.detach, aten.lift_fresh_copy, aten.contiguous, aten._to_copy}
"""Return their input."""

UNARY = {
    aten.relu, aten.relu6, aten.hardtanh, aten.hardswish, aten.hardsigmoid, aten.sigmoid, aten.tanh, aten.silu,
    aten.gelu, aten.mish, aten.elu, aten.selu, aten.celu, aten.leaky_relu, aten.softplus, aten.threshold,
    aten.log_sigmoid, aten.abs, aten.neg, aten.exp, aten.erf, aten.log, aten.log1p, aten.sqrt, aten.rsqrt,
    aten.reciprocal, aten.square, aten.sign, aten.sin, aten.cos, aten.floor, aten.ceil, aten.round, aten.clamp,
    aten.clamp_min, aten.clamp_max, aten.hardshrink, aten.softshrink, aten.expm1,
}  # fmt: skip
"""One tensor in, each element on its own."""

BINARY = {aten.add, aten.sub, aten.mul, aten.div, aten.maximum, aten.minimum, aten.pow, aten.rsub}
"""One or two tensors in, broadcast, each element on its own."""

SPATIAL = {
    aten.max_pool1d: 1, aten.max_pool2d: 2, aten.max_pool3d: 3, aten.avg_pool1d: 1, aten.avg_pool2d: 2,
    aten.avg_pool3d: 3, aten.adaptive_avg_pool1d: 1, aten.adaptive_avg_pool2d: 2, aten.adaptive_avg_pool3d: 3,
    aten.upsample_nearest1d: 1, aten.upsample_nearest2d: 2, aten.upsample_nearest3d: 3, aten.upsample_bilinear2d: 2,
    aten.upsample_bicubic2d: 2, aten.upsample_trilinear3d: 3, aten.upsample_linear1d: 1,
}  # fmt: skip
"""Mix the last n axes inside each channel; a channel that is one constant stays that constant, unless padded."""

PADDING = {aten.constant_pad_nd, aten.pad}
"""Extend the last axes."""

PIXELS = {aten.pixel_shuffle, aten.pixel_unshuffle}
"""Move elements between the channel axis and the image."""

CUTS = {aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind}
"""Take parts of one axis."""

REDUCTIONS = {aten.mean, aten.sum, aten.amax, aten.amin}
"""Remove axes."""

MOVEMENT = {
    aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.t, aten.unsqueeze, aten.squeeze,
    aten.expand, aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind, aten.roll, aten.flip,
}  # fmt: skip
"""Only rearrange elements."""

SIZES = {aten.sym_size, aten.sym_stride, aten.sym_numel, aten._assert_tensor_metadata}
"""Read the shape, not the values."""

CHOICES = {
    aten.where, aten.masked_fill, aten.eq, aten.ne, aten.gt, aten.ge, aten.lt, aten.le, aten.logical_not,
    aten.logical_and, aten.logical_or, aten.bitwise_not, aten.bitwise_and, aten.bitwise_or, aten.isnan,
}  # fmt: skip
"""Compare or choose, each element on its own."""

CREATION = {
    aten.arange, aten.full, aten.zeros, aten.ones, aten.new_zeros, aten.new_ones, aten.new_full, aten.full_like,
    aten.zeros_like, aten.ones_like, aten.scalar_tensor,
}  # fmt: skip
"""Make a tensor from sizes alone."""

PRODUCTS = {aten.matmul, aten.bmm, aten.mm}
"""Multiply matrices."""

SOFTMAXES = {aten.softmax, aten._softmax}
"""Make rows that sum to one."""
