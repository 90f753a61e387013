"""Operators that move, choose, make and resize; results with numpy, torch, or numbers from the documentation."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from tests.runtimes.mil.builder import Case

R = np.random.default_rng(2)
X = R.standard_normal((2, 3, 4)).astype(np.float32)
IMAGE = R.standard_normal((2, 8, 4, 6)).astype(np.float32)
I = R.integers(-9, 9, (2, 3)).astype(np.int32)  # noqa: E741
INDICES = np.array([[2, 0], [1, 1]], np.int32)
DATA = R.standard_normal((3, 4)).astype(np.float32)
UPDATES = R.standard_normal((2, 4)).astype(np.float32)
ROWS = np.array([2, 0], np.int32)
GRID = np.array([[[[-1.0, -2.0], [-3.7, -1.0]], [[0.0, 0.0], [3.5, 1.2]]]], np.float32)
SQUARE = np.array([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
COUNTED = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
BOXES = np.array([[[1, 1, 2, 2], [1.1, 1, 2, 2], [5, 5, 1, 1], [9, 9, 2, 2]]], np.float32)
SCORES = np.array([[[0.9], [0.8], [0.7], [0.1]]], np.float32)


def one(name, expected, x=X, **own):
    return Case(name, lambda mb, v: getattr(mb, name)(x=v, **own), (x,), expected)


def torched(function):
    return lambda x: function(torch.from_numpy(x)).numpy()


def interpolate(mode, **own):
    return torched(lambda x: F.interpolate(x, mode=mode, **own))


def scattered(mode, function):
    def expected(data, updates):
        result = data.copy()
        for row, values in zip(ROWS, updates, strict=True):
            result[row] = function(result[row], values)
        return result

    return Case("scatter", lambda mb, d, u: mb.scatter(data=d, indices=ROWS, updates=u, axis=0, mode=mode),
                (DATA, np.abs(UPDATES) + 0.5), expected)  # fmt: skip


def blocks_to_batch(x):
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)])
    return np.concatenate([padded[:, :, i::2, j::3] for i in range(2) for j in range(3)])


def along(data, indices, updates):
    result = data.copy()
    for r in range(2):
        for c in range(2):
            result[r, indices[r, c]] += updates[r, c]
    return result


CASES = [
    one("reshape", lambda x: x.reshape(6, 4), shape=[-1, 4]), one("reshape", lambda x: x.reshape(2, 12), shape=[2, -1]),
    one("expand_dims", lambda x: x[None, ..., None], axes=[0, -1]),
    one("squeeze", lambda x: x[0], X[:1], axes=[0]), one("transpose", lambda x: x.transpose(2, 0, 1), perm=[2, 0, 1]),
    one("flatten2d", lambda x: x.reshape(6, 4), axis=-1), one("shape", lambda x: np.array(x.shape)),
    one("split", lambda x: (x[:, :1], x[:, 1:]), axis=1, split_sizes=[1, 2]),
    one("split", lambda x: (x[..., :2], x[..., 2:]), axis=-1, num_splits=2),
    Case("concat", lambda mb, x, y: mb.concat(values=(x, y), axis=1), (X, X[:, :1]),
         lambda x, y: np.concatenate([x, y], 1)),
    Case("concat", lambda mb, x, y: mb.concat(values=(x, y), axis=0, interleave=True), (X, X * 2),
         lambda x, y: np.stack([x, y], 1).reshape(4, 3, 4)),
    Case("stack", lambda mb, x, y: mb.stack(values=(x, y), axis=-1), (X, X * 2), lambda x, y: np.stack([x, y], -1)),
    one("slice_by_index", lambda x: x[0, 1:, ::-2], begin=[0, 1, 0], end=[0, 3, 0], stride=[1, 1, -2],
        begin_mask=[False, False, True], end_mask=[False, False, True], squeeze_mask=[True, False, False]),
    one("slice_by_index", lambda x: x[:, -2:-1, 1:3], begin=[0, -2, 1], end=[2, -1, 3]),
    one("slice_by_size", lambda x: x[:, 1:3, 2:], begin=[0, 1, 2], size=[2, 2, -1]),
    one("sliding_windows", lambda x: np.stack([x[:, 0:2], x[:, 1:3]], 1), axis=1, size=2),
    one("crop", lambda x: x[:, :, 1:-1, 2:], IMAGE, crop_height=[1, 1], crop_width=[2, 0]),
    one("reverse", lambda x: x[:, ::-1], axes=[1]), one("reverse", lambda x: x[::-1, ::-1, ::-1]),
    one("reverse_sequence", lambda x: np.stack([x[0][[1, 0, 2]], x[1][::-1]]), lengths=[2, 3], seq_axis=1,
        batch_axis=0),
    one("pixel_shuffle", torched(lambda x: F.pixel_shuffle(x, 2)), IMAGE, upscale_factor=2),
    one("depth_to_space", lambda x: x.reshape(2, 2, 2, 2, 4, 6).transpose(0, 3, 4, 1, 5, 2).reshape(2, 2, 8, 12), IMAGE,
        block_size=2),
    one("depth_to_space", lambda x: np.array([9, 5, 1, 3.0]).reshape(1, 1, 2, 2),
        np.array([9, 5, 1, 3], np.float32).reshape(1, 4, 1, 1), block_size=2),
    one("space_to_depth", lambda x: np.concatenate([x[:, :, i::2, j::2] for i in range(2) for j in range(2)], 1), IMAGE,
        block_size=2),
    one("space_to_batch", blocks_to_batch, IMAGE, block_shape=[2, 3], paddings=[[1, 1], [0, 0]]),
    Case("batch_to_space", lambda mb, x: mb.batch_to_space(x=x, block_shape=[2, 3], crops=[[1, 1], [0, 0]]),
         (blocks_to_batch(IMAGE),), lambda _: IMAGE),
    one("tile", lambda x: np.tile(x, (1, 2, 3)), reps=[1, 2, 3]),
    one("pad", lambda x: np.pad(x, [(0, 0), (1, 2), (3, 0)], constant_values=7), pad=[1, 2, 3, 0], constant_val=7.0),
    one("pad", lambda x: np.pad(x, [(0, 0), (0, 0), (2, 3)], mode="reflect"), pad=[2, 3], mode="reflect"),
    one("pad", lambda x: np.pad(x, [(0, 0), (1, 0), (0, 2)], mode="edge"), pad=[1, 0, 0, 2], mode="replicate"),
    one("band_part", lambda x: np.triu(np.tril(x, 1), -1), lower=1, upper=1),
    one("band_part", lambda x: np.tril(x), lower=-1, upper=0),
    one("cumsum", lambda x: x.cumsum(1), axis=1),
    one("cumsum", lambda x: np.flip(np.flip(x, 1).cumsum(1) - np.flip(x, 1), 1), axis=1, exclusive=True, reverse=True),
    one("argsort", lambda x: (-x).argsort(1), axis=1), one("argsort", lambda x: x.argsort(-1), ascending=True),
    one("topk", lambda x: (-np.sort(-x, -1)[..., :2], (-x).argsort(-1)[..., :2]), k=2),
    one("topk", lambda x: (np.sort(x, 1)[:, :1], x.argsort(1)[:, :1]), k=1, axis=1, ascending=True),
    one("non_zero", lambda x: np.argwhere(x), np.array([[0, 3], [1, 0]], np.int32)),
    Case("select", lambda mb, c, a, b: mb.select(cond=c, a=a, b=b), (X > 0, X, X * 3), np.where),
    Case("fill", lambda mb, s: mb.fill(shape=s, value=2.5), (np.array([2, 3], np.int32),), lambda s: np.full(s, 2.5)),
    Case("fill_like", lambda mb, x: mb.fill_like(ref_tensor=x, value=3), (X,), lambda x: np.full(x.shape, 3)),
    Case("range_1d", lambda mb, e: mb.range_1d(end=mb.squeeze(x=e), start=1, step=3), (np.array([9], np.int32),),
         lambda e: np.arange(1, e[0], 3)),
    Case("one_hot", lambda mb, x: mb.one_hot(indices=x, one_hot_vector_size=3, axis=0, on_value=5.0, off_value=-1.0),
         (np.array([2, 0, 1, 1], np.int32),), lambda x: np.where(np.arange(3)[:, None] == x, 5.0, -1.0)),
    Case("reshape_like", lambda mb, x, a, b: mb.reshape_like(
        x=x, ref_tensors=(a, b), begins=[0, 1], ends=[1, 0], end_masks=[False, True]), (X, X, X), lambda x, a, b: x),
    one("pixel_unshuffle", torched(lambda x: F.pixel_unshuffle(x, 2)), IMAGE, downscale_factor=np.uint32(2)),
    Case("gather", lambda mb, x, i: mb.gather(x=x, indices=i, axis=1), (X, INDICES), lambda x, i: x[:, i]),
    Case("gather", lambda mb, x, i: mb.gather(x=x, indices=i, axis=1, batch_dims=1), (X, INDICES),
         lambda x, i: np.stack([x[0][i[0]], x[1][i[1]]])),
    Case("gather_along_axis", lambda mb, x, i: mb.gather_along_axis(x=x, indices=i, axis=1), (X[:, :, 0], INDICES),
         lambda x, i: np.take_along_axis(x, i, 1)),
    Case("gather_nd", lambda mb, x, i: mb.gather_nd(x=x, indices=i), (X, np.array([[1, 2], [0, 1]], np.int32)),
         lambda x, i: x[i[:, 0], i[:, 1]]),
    Case("gather_nd", lambda mb, x, i: mb.gather_nd(x=x, indices=i, batch_dims=1), (X, np.array([[2], [0]], np.int32)),
         lambda x, i: np.stack([x[0, 2], x[1, 0]])),
    scattered("update", lambda a, b: b), scattered("add", np.add), scattered("sub", np.subtract),
    scattered("mul", np.multiply), scattered("div", np.divide), scattered("max", np.maximum),
    scattered("min", np.minimum),
    Case("scatter_along_axis", lambda mb, d, i, u: mb.scatter_along_axis(data=d, indices=i, updates=u, axis=1),
         (DATA[:2], INDICES, UPDATES[:, :2]), along),
    Case("scatter_nd", lambda mb, d, i, u: mb.scatter_nd(data=d, indices=i, updates=u, mode="update"),
         (DATA, np.array([[1], [0]], np.int32), UPDATES), lambda d, i, u: np.stack([u[1], u[0], d[2]])),
    one("upsample_nearest_neighbor", interpolate("nearest", scale_factor=(2, 3)), IMAGE, scale_factor_height=2,
        scale_factor_width=3),
    one("resize_nearest_neighbor", interpolate("nearest", size=(7, 4)), IMAGE, target_size_height=7,
        target_size_width=4),
    one("upsample_bilinear", interpolate("bilinear", scale_factor=2, align_corners=True), IMAGE, scale_factor_height=2,
        scale_factor_width=2),
    one("upsample_bilinear", interpolate("bilinear", scale_factor=2, align_corners=False), IMAGE,
        scale_factor_height=2.0, scale_factor_width=2.0, align_corners=False),
    one("resize_bilinear", interpolate("bilinear", size=(3, 9), align_corners=False), IMAGE, target_size_height=3,
        target_size_width=9, sampling_mode="UNALIGN_CORNERS"),
    one("resize_bilinear", interpolate("bilinear", size=(3, 9), align_corners=True), IMAGE, target_size_height=3,
        target_size_width=9, sampling_mode="STRICT_ALIGN_CORNERS"),
    *(  # grid points from the documentation of resize_bilinear: the interval [0, 1], five or six points
        one("resize_bilinear", lambda x, points=points: np.array([[points]]), np.array([[[0, 1]]], np.float32),
            target_size_height=1, target_size_width=len(points), sampling_mode=mode)
        for mode, points in (
            ("UNALIGN_CORNERS", [0.0, 0.1, 0.5, 0.9, 1.0]), ("ALIGN_CORNERS", [0.0, 0.25, 0.5, 0.75, 1.0]),
            ("DEFAULT", [0.0, 0.4, 0.8, 1.0, 1.0]), ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
            ("ALIGN_CORNERS", [0.5]),
        )
    ),
    Case("resample", lambda mb, x, c: mb.resample(
        x=x, coordinates=c, sampling_mode="bilinear", padding_mode="reflection", padding_value=-1.0,
        coordinates_mode="normalized_zero_to_one", align_corners=True), (SQUARE, GRID),
        lambda x, c: np.array([22, 36.3, 11, 34.1]).reshape(1, 1, 2, 2)),
    Case("resample", lambda mb, x, c: mb.resample(
        x=x, coordinates=c, sampling_mode="bilinear", padding_mode="constant", padding_value=6.17,
        coordinates_mode="normalized_minus_one_to_one", align_corners=True), (SQUARE, GRID),
        lambda x, c: np.array([8.585, 6.17, 27.5, 6.17]).reshape(1, 1, 2, 2)),
    Case("resample", lambda mb, x, c: mb.resample(
        x=x, coordinates=c, sampling_mode="nearest", padding_mode="border", padding_value=-1.0,
        coordinates_mode="unnormalized", align_corners=False), (SQUARE, GRID),
        lambda x, c: np.array([11, 11, 11, 44.0]).reshape(1, 1, 2, 2)),
    Case("resample", lambda mb, x, c: mb.resample(
        x=x, coordinates=c, sampling_mode="nearest", padding_mode="symmetric", padding_value=-1.0,
        coordinates_mode="normalized_zero_to_one", align_corners=False), (SQUARE, GRID),
        lambda x, c: np.array([22, 33, 11, 33.0]).reshape(1, 1, 2, 2)),
    Case("affine", lambda mb, x: mb.affine(
        x=x, transform_matrix=np.array([[0.8, 0.1, 0.05, -0.2, 0.9, 0.1]], np.float32), output_height=5, output_width=3,
        sampling_mode="bilinear", padding_mode="constant", padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one", align_corners=True), (IMAGE,),
        torched(lambda x: F.grid_sample(x, F.affine_grid(
            torch.tensor([[[0.8, 0.1, 0.05], [-0.2, 0.9, 0.1]]]).expand(2, 2, 3), (2, 8, 5, 3), align_corners=True),
            align_corners=True))),
    Case("crop_resize", lambda mb, x: mb.crop_resize(
        x=x, roi=np.array([1, 1, 2, 2], np.float32).reshape(1, 1, 4, 1, 1), target_width=2, target_height=2,
        sampling_mode="ALIGN_CORNERS"), (COUNTED,), lambda _: np.array([6, 7, 10, 11.0]).reshape(1, 1, 1, 2, 2)),
    Case("crop_resize", lambda mb, x: mb.crop_resize(
        x=x, roi=np.array([0, 2, 2, 1, 1], np.float32).reshape(1, 1, 5, 1, 1), target_width=2, target_height=2,
        sampling_mode="ALIGN_CORNERS"), (COUNTED,), lambda _: np.array([11, 10, 7, 6.0]).reshape(1, 1, 1, 2, 2)),
    Case("non_maximum_suppression", lambda mb, b, s: mb.non_maximum_suppression(
        boxes=b, scores=s, iou_threshold=0.5, score_threshold=0.3, max_boxes=3), (BOXES, SCORES),
        lambda b, s: (np.concatenate([b[:, [0, 2]], 0 * b[:, :1]], 1), np.array([[[0.9], [0.7], [0]]]),
                      np.array([[0, 2, -1]]), np.array([2]))),
]  # fmt: skip
IOS17_CASES = [
    one("reshape", lambda x: x.reshape(1, 2, 12), shape=[1, 2, -1]),
    Case("reshape", lambda mb, x: mb.reshape(x=x, shape=[1, 0, -1, 0]), (X[:, 0],), lambda x: x[None, None]),
    one("resize", interpolate("bilinear", size=(3, 6), align_corners=False), IMAGE, shape=[3, 0],
        resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
    one("resize", lambda x: x[:, :, [0, 1, 1]], X[:, :2][None], shape=[3, 0], resized_dims=np.uint32(2),
        interpolation_mode="NEAREST_NEIGHBOR"),
    Case("quantize", lambda mb, x: mb.quantize(input=x, zero_point=np.int8(3), scale=0.05, output_dtype="int8"), (X,),
         lambda x: np.clip(np.rint(x / np.float32(0.05)) + 3, -128, 127)),
    Case("dequantize", lambda mb, x: mb.dequantize(
        input=x, zero_point=np.array([1, 2, 3], np.uint8), scale=np.array([0.5, 1, 2], np.float32), axis=1),
        (np.array([[0, 9, 4], [255, 3, 3]], np.uint8),), lambda x: (x.astype(float) - [1, 2, 3]) * [0.5, 1, 2]),
    Case("topk", lambda mb, x: mb.topk(x=x, k=2, output_indices_dtype="uint16"), (X,),
         lambda x: (-np.sort(-x, -1)[..., :2], (-x).argsort(-1)[..., :2])),
    Case("crop_resize", lambda mb, x: mb.crop_resize(
        x=x, boxes=np.array([[1, 1, 2, 2], [-1, 0, 1, 0]], np.float32), box_indices=[0, 0], target_width=2,
        target_height=2, sampling_mode="STRICT_ALIGN_CORNERS", pad_value=-5.0), (COUNTED,),
        lambda _: np.array([[6, 7, 10, 11], [-5, -5, 5, 5.0]]).reshape(2, 1, 2, 2)),
    Case("non_maximum_suppression", lambda mb, b, s: mb.non_maximum_suppression(
        boxes=b, scores=s, iou_threshold=0.5, max_boxes=2),
        (BOXES.transpose(0, 2, 1).copy(), SCORES.transpose(0, 2, 1).copy()),
        lambda b, s: (b[:, :, [0, 2]], s[:, :, [0, 2]], np.array([[0, 2]]))),
]  # fmt: skip
IOS18_CASES = [
    Case("slice_update", lambda mb, x, u: mb.slice_update(x=x, update=u, begin=[0, 1, 0], end=[2, 3, 4],
                                                          stride=[1, 1, 2]), (X, X[:, 1:, :2]),
         lambda x, u: np.concatenate([x[:, :1], np.stack([u[..., 0], x[:, 1:, 1], u[..., 1], x[:, 1:, 3]], -1)], 1)),
]  # fmt: skip
