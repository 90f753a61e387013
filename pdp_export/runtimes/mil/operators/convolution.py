"""Convolutions. Meaning: coremltools ``mil/ops/defs/iOS15/conv.py`` (iOS 17 only widens types)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from pdp_export.runtimes.mil.operators.activation import per_channel
from pdp_export.runtimes.mil.registry import check_size, operator

Sizes = Sequence[int]
_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolve (n, C_in, *D) with (C_out, C_in / groups, *K) over one to three axes."""
    axes = x.ndim - 2
    step, spread = strides or (1,) * axes, dilations or (1,) * axes
    reach = [(size - 1) * gap + 1 for size, gap in zip(weight.shape[2:], spread, strict=True)]
    sides = padding_of(pad_type, pad, x.shape[2:], reach, step)
    if all(before == after for before, after in sides):
        check_padded(x, sides)
        return _CONV[axes](x, weight, bias, step, [before for before, _ in sides], spread, groups)
    return _CONV[axes](padded(x, sides), weight, bias, step, 0, spread, groups)


@operator("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution of (n, C_in, *D) with (C_in, C_out / groups, *K).

    The full result is cut to the documented size, or filled up with zeros behind its end where that is larger.
    """
    axes = x.ndim - 2
    step, spread = strides or (1,) * axes, dilations or (1,) * axes
    full = [
        (size - 1) * s + (k - 1) * d + 1
        for size, s, k, d in zip(x.shape[2:], step, weight.shape[2:], spread, strict=True)
    ]
    check_size([x.shape[0], weight.shape[1] * groups, *full])
    y = _TRANSPOSED[axes](x, weight, None, step, 0, 0, groups, spread)
    for axis, size in enumerate(full):
        start, wanted = _kept(axis, size, x.shape[2 + axis] * step[axis], pad_type, pad, output_shape)
        y = y.narrow(2 + axis, start, min(wanted, size - start))
        if start + wanted > size:
            y = F.pad(y, [0, 0] * (axes - 1 - axis) + [0, start + wanted - size])
    return y if bias is None else y + per_channel(bias, y)


def _kept(
    axis: int, full: int, same: int, pad_type: str, pad: tuple[int, ...] | None, output_shape: tuple[int, ...] | None
) -> tuple[int, int]:
    """Return where the result starts inside the full one, and how long it is."""
    wanted = output_shape[2 + axis] if output_shape is not None else None
    if pad_type == "custom" and pad is not None:
        return pad[2 * axis], full - pad[2 * axis] - pad[2 * axis + 1] if wanted is None else wanted
    if pad_type in ("same", "same_lower"):
        wanted = same if wanted is None else wanted
        surplus = max(full - wanted, 0)
        return surplus - surplus // 2 if pad_type == "same_lower" else surplus // 2, wanted
    return 0, full if wanted is None else wanted


def padding_of(
    pad_type: str, pad: tuple[int, ...] | None, sizes: Sizes, kernel: Sizes, strides: Sizes
) -> list[tuple[int, int]]:
    """Return (before, after) for every spatial axis.

    "same" makes the result ``ceil(size / stride)`` long; the odd element goes behind, with "same_lower" before.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        given = pad or (0,) * (2 * len(sizes))
        if len(given) != 2 * len(sizes):
            raise ValueError(f"{len(given)} paddings for {len(sizes)} axes")
        return [(given[2 * axis], given[2 * axis + 1]) for axis in range(len(sizes))]
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"unknown pad_type {pad_type!r}")
    sides = []
    for size, reach, stride in zip(sizes, kernel, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        half = total // 2
        sides.append((total - half, half) if pad_type == "same_lower" else (half, total - half))
    return sides


def padded(x: Tensor, sides: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad the spatial axes (from axis 2 on) by (before, after)."""
    if not any(before or after for before, after in sides):
        return x
    check_padded(x, sides)
    return F.pad(x, [amount for side in reversed(sides) for amount in side], value=value)


def check_padded(x: Tensor, sides: Sequence[tuple[int, int]]) -> None:
    """Raise FileError for negative padding, or padding that makes the tensor too large."""
    if any(before < 0 or after < 0 for before, after in sides):
        raise ValueError(f"negative padding {list(sides)}")
    spatial = [size + before + after for size, (before, after) in zip(x.shape[2:], sides, strict=True)]
    check_size([*x.shape[:2], *spatial])
