"""Changes of resolution over the last axes.

Meaning: the grids of points in coremltools ``mil/ops/defs/iOS15/image_resizing.py`` (resize_bilinear), with
`half_pixel_centers` from iOS 16 and ``resize`` from iOS 17, whose nearest neighbour is that of the grid point (the text
does not say so, Apple's own tests do).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import check_size, operator, undocumented

Points = Callable[[float, int], Tensor]


def grid_points(mode: str, size: float, count: int) -> Tensor:
    """Return `count` points in float64 that sample the interval [0, size - 1], not clipped to it."""
    steps = torch.arange(count, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1:
            return torch.full((1,), (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0, dtype=torch.float64)
        return steps * ((size - 1) / (count - 1))
    if mode == "DEFAULT":
        return steps * (size / count)
    if mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / count
        return 0.5 * delta + steps * delta
    if mode == "UNALIGN_CORNERS":
        return steps * (size / count) + (0.5 * size / count - 0.5)
    raise ValueError(f"unknown sampling_mode {mode!r}")


@operator("resize_bilinear")
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Resize the last two axes by linear interpolation."""
    return _linear(x, [target_size_height, target_size_width], sampling_mode)


@operator("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Resize the last two axes by factors; the grid follows from the resulting size."""
    centred = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and centred:
        raise undocumented("upsample_bilinear with both align_corners and half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if centred else "DEFAULT"
    return _linear(x, _scaled(x, scale_factor_height, scale_factor_width), mode)


@operator("upsample_nearest_neighbor")
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """Repeat elements of the last two axes by factors."""
    return _nearest(x, _scaled(x, scale_factor_height, scale_factor_width))


@operator("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Resize the last two axes by taking the element at ``floor(i * size / target)``."""
    return _nearest(x, [target_size_height, target_size_width])


@operator("resize")
def resize(
    x: Tensor,
    shape: tuple[int, ...],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resize the last `resized_dims` axes to the last sizes in `shape`; 0 keeps a size."""
    if not 0 <= resized_dims <= len(shape) <= x.ndim:
        raise ValueError(f"{resized_dims} axes of {list(shape)} for a tensor of {x.ndim}")
    own = x.shape[x.ndim - resized_dims :]
    sizes = [size or kept for size, kept in zip(shape[len(shape) - resized_dims :], own, strict=True)]
    if interpolation_mode == "LINEAR":
        return _linear(x, sizes, sampling_mode)
    if interpolation_mode != "NEAREST_NEIGHBOR":
        raise ValueError(f"unknown interpolation_mode {interpolation_mode!r}")
    check_size([*x.shape[: x.ndim - len(sizes)], *sizes])
    for offset, size in enumerate(sizes):
        axis = x.ndim - len(sizes) + offset
        points = grid_points(sampling_mode, x.shape[axis], size)
        if bool(((points - points.floor()) == 0.5).any()):  # noqa: PLR2004  half-way between two elements
            raise undocumented("resize to the nearest neighbour where two are equally near")
        x = x.index_select(axis, points.round().clamp(0, x.shape[axis] - 1).long())
    return x


def _scaled(x: Tensor, height: float, width: float) -> list[int]:
    return [int(x.shape[-2] * height), int(x.shape[-1] * width)]


def _linear(x: Tensor, sizes: list[int], mode: str) -> Tensor:
    check_size([*x.shape[: x.ndim - len(sizes)], *sizes])
    y = x.float()
    for offset, size in enumerate(sizes):
        axis = x.ndim - len(sizes) + offset
        y = interpolated(y, axis, grid_points(mode, x.shape[axis], size))
    return y.to(x.dtype) if x.is_floating_point() else y.round().to(x.dtype)


def interpolated(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Sample `x` along an axis at points, linearly between neighbours; points beyond the ends take the end."""
    last = x.shape[axis] - 1
    points = points.clamp(0, last)
    low = points.floor().long()
    share = (points - low).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis))
    below, above = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=last))
    return below + (above - below) * share


def _nearest(x: Tensor, sizes: list[int]) -> Tensor:
    check_size([*x.shape[: x.ndim - len(sizes)], *sizes])
    for offset, size in enumerate(sizes):
        axis = x.ndim - len(sizes) + offset
        x = x.index_select(axis, torch.arange(size) * x.shape[axis] // size)
    return x
