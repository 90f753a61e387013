"""Samples of images at computed places.

Meaning: coremltools ``mil/ops/defs/iOS15/image_resizing.py`` (resample, affine, crop_resize), with `pad_value` from
iOS 16, and boxes with indices in place of ``roi`` from iOS 17.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pdp_export.runtimes.mil.operators.resizing import grid_points
from pdp_export.runtimes.mil.registry import check_size, operator

_WITH_INDEX = 5


@operator("resample")
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Sample (B, C, H, W) at (B, h, w, 2) places (x, y)."""
    places = coordinates.float()
    columns = _folded(_pixels(places[..., 0], x.shape[-1], coordinates_mode, align_corners), x.shape[-1], padding_mode)
    rows = _folded(_pixels(places[..., 1], x.shape[-2], coordinates_mode, align_corners), x.shape[-2], padding_mode)
    if sampling_mode == "nearest":
        return _picked(x, rows.round(), columns.round(), padding_mode, padding_value)
    if sampling_mode != "bilinear":
        raise ValueError(f"unknown sampling_mode {sampling_mode!r}")
    return _bilinear(x, rows, columns, padding_mode, padding_value)


@operator("affine")
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Sample at ``x' = a0 x + a1 y + a2`` and ``y' = b0 x + b1 y + b2``, all in [-1, 1] across the image."""
    check_size([*x.shape[:2], output_height, output_width])
    down, right = _axis(output_height), _axis(output_width)
    ones = torch.ones(output_height, output_width)
    base = torch.stack([right.expand_as(ones), down[:, None].expand_as(ones), ones], -1)
    matrix = transform_matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    places = torch.einsum("hwk,bck->bhwc", base, matrix.float())
    return resample(x, places, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


def _axis(count: int) -> Tensor:
    return torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)


@operator("crop_resize")
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: tuple[int, ...] | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Cut boxes out of images and resize them linearly.

    iOS 15 and 16: `roi` is (N, 1, 4, 1, 1) for all images, or (N, 1, 5, 1, 1) with the number of the image first; the
    result is (N, B or 1, C, h, w). iOS 17: `boxes` is (N, 4), `box_indices` the images; the result is (N, C, h, w).
    """
    if (roi is None) == (boxes is None):
        raise ValueError("one of roi and boxes is needed")
    given = boxes if boxes is not None else roi.reshape(roi.shape[0], roi.shape[2]) if roi is not None else x
    given = given.float()
    if roi is not None and given.shape[1] == _WITH_INDEX:
        images = [[int(index)] for index in given[:, 0].tolist()]
        given = given[:, 1:]
    elif roi is not None:
        images = [list(range(x.shape[0]))] * len(given)
    else:
        images = [[index] for index in (range(len(given)) if box_indices is None else box_indices)]
    check_size([len(given), len(images[0]) if images else 0, x.shape[1], target_height, target_width])
    crops = []
    for box, chosen in zip(given, images, strict=True):
        top, left, bottom, right = _corners(box, box_coordinate_mode)
        rows = _within(top, bottom, x.shape[-2], target_height, normalized_coordinates, spatial_scale, sampling_mode)
        columns = _within(left, right, x.shape[-1], target_width, normalized_coordinates, spatial_scale, sampling_mode)
        crops.append(_cropped(x[chosen], rows, columns, pad_value))
    joined = torch.stack(crops)
    return joined if roi is not None else joined[:, 0]


def _corners(box: Tensor, mode: str) -> tuple[float, float, float, float]:
    first, second, third, fourth = box.tolist()
    if mode.endswith("WIDTH_FIRST"):
        first, second, third, fourth = second, first, fourth, third
    if mode.startswith("CORNERS"):
        return first, second, third, fourth
    if mode.startswith("CENTER_SIZE"):
        return first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2
    raise ValueError(f"unknown box_coordinate_mode {mode!r}")


def _within(
    start: float, end: float, size: int, count: int, normalized: bool, spatial_scale: float, mode: str
) -> Tensor:
    """Return the places along one axis that sample a box; a box may run backwards."""
    factor = spatial_scale * (size - 1 if normalized else 1)
    start, end = start * factor, end * factor
    if end < start:
        return end + grid_points(mode, start - end + 1, count).flip(0)
    return start + grid_points(mode, end - start + 1, count).clamp(max=end - start)


def _cropped(x: Tensor, rows: Tensor, columns: Tensor, pad_value: float) -> Tensor:
    down, right = torch.meshgrid(rows.float(), columns.float(), indexing="ij")
    shape = (x.shape[0], *down.shape)
    values = _bilinear(x, down.expand(shape), right.expand(shape), "border", 0.0)
    outside = (down < 0) | (down > x.shape[-2] - 1) | (right < 0) | (right > x.shape[-1] - 1)
    return torch.where(outside, pad_value, values)


def _pixels(places: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Return places in pixels: 0 is the centre of the first, size - 1 that of the last."""
    if mode == "unnormalized":
        return places
    if mode == "normalized_minus_one_to_one":
        places = (places + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise ValueError(f"unknown coordinates_mode {mode!r}")
    return places * (size - 1) if align_corners else places * size - 0.5


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor, padding: str, value: float) -> Tensor:
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    upper = _picked(x, top, left, padding, value) * (1 - right) + _picked(x, top, left + 1, padding, value) * right
    lower = _picked(x, top + 1, left, padding, value) * (1 - right)
    lower = lower + _picked(x, top + 1, left + 1, padding, value) * right
    return upper * (1 - down) + lower * down


def _picked(x: Tensor, rows: Tensor, columns: Tensor, padding: str, value: float) -> Tensor:
    """Return the pixels at whole places (B, h, w); beyond the image the value, or the edge."""
    height, width = x.shape[-2:]
    check_size([*x.shape[:2], *rows.shape[1:]])
    down, right = rows.nan_to_num().clamp(0, height - 1).long(), columns.nan_to_num().clamp(0, width - 1).long()
    batch = torch.arange(x.shape[0])[:, None, None]
    values = x[batch, :, down, right].movedim(-1, 1)
    if padding != "constant":
        return values
    outside = (rows < 0) | (rows > height - 1) | (columns < 0) | (columns > width - 1)
    return torch.where(outside[:, None], value, values)


def _folded(places: Tensor, size: int, padding: str) -> Tensor:
    """Bring places beyond the image back into it, before any rounding: mirrored at the edge pixels or behind them."""
    if padding == "constant":
        return places
    if padding == "border":
        return places.clamp(0, size - 1)
    if padding not in ("reflection", "symmetric"):
        raise ValueError(f"unknown padding_mode {padding!r}")
    start, length = (0.0, size - 1) if padding == "reflection" else (-0.5, size)
    if length == 0:
        return torch.zeros_like(places)
    walked = torch.remainder(places - start, 2 * length)
    return torch.minimum(walked, 2 * length - walked) + start
