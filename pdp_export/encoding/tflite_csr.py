"""Sparse tensors as a .tflite file stores them: one level per axis, each dense or compressed.

A tensor is a tree. The root is one node; level after level, every node gets one child per coordinate (a dense
level) or one child per listed coordinate (a compressed level, CSR). The leaves, in order, are the stored values.
With a (2, 4) matrix, a dense level over rows and a compressed level over columns::

    [[0, 7, 0, 0],      segments [0, 1, 3]    row r owns the entries segments[r] : segments[r + 1]
     [5, 0, 0, 6]]      indices  [1, 0, 3]    the columns of the stored values
                        values   [7, 5, 6]

Source: the `SparsityParameters` table of the TensorFlow Lite schema, after F. Kjolstad et al., The Tensor Algebra
Compiler, OOPSLA 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Level:
    """One axis of the tree: dense with `size` coordinates, or compressed with `segments` and `indices`."""

    size: int = 0
    segments: Array | None = None
    indices: Array | None = None


@dataclass(frozen=True)
class SparseTensor:
    """A tensor of `shape` as levels and values.

    `order` says which axis each level walks. An entry `rank + k` is the inner level of blocked axis `blocked[k]`.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    levels: tuple[Level, ...]
    values: Array
    blocked: tuple[int, ...] = ()

    @property
    def stored_bytes(self) -> int:
        """Bytes of values, segments and indices."""
        arrays = [array for level in self.levels for array in (level.segments, level.indices) if array is not None]
        return int(self.values.nbytes + sum(array.nbytes for array in arrays))


def encode(dense: Array) -> SparseTensor:
    """Compress the last axis of `dense`, all other axes staying dense levels.

    Segments and indices use the smallest of uint8, uint16 and int32 that holds them. Both zeros, +0.0 and -0.0, are
    dropped and come back as +0.0; every other value, NaN included, is kept bit by bit. A tensor of zeros keeps one of
    them: a file has no other way to tell an empty constant from no constant.

    Raises:
        ValueError: for a scalar, or for more than 2**31 - 1 stored values.
    """
    if dense.ndim == 0:
        raise ValueError("a scalar has no axis to compress")
    rows = dense.reshape(math.prod(dense.shape[:-1]), dense.shape[-1])
    kept = rows != 0
    if rows.size and not kept.any():
        rows, kept[0, 0] = np.zeros_like(rows), True
    segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1, dtype=np.int64))])
    last = Level(segments=_narrow(segments, int(segments[-1])), indices=_narrow(kept.nonzero()[1], rows.shape[1] - 1))
    outer = tuple(Level(size=size) for size in dense.shape[:-1])
    return SparseTensor(dense.shape, tuple(range(dense.ndim)), (*outer, last), rows[kept])


def decode(sparse: SparseTensor) -> Array:
    """Return the dense tensor; works for any order of levels and for blocks.

    Raises:
        ValueError: when levels and values contradict each other or the shape.
    """
    rank = len(sparse.shape)
    sizes = _level_sizes(sparse)
    if 0 in sparse.shape and not len(sparse.values):
        return np.zeros(sparse.shape, dtype=sparse.values.dtype)
    nodes = np.zeros(1, dtype=np.int64)
    coordinates: dict[int, Array] = {}
    for axis, size, level, most in zip(sparse.order, sizes, sparse.levels, _room(sparse), strict=True):
        if level.segments is None and len(nodes) * size > most:
            raise ValueError(f"{len(nodes) * size} nodes of axis {axis} share {most} entries")
        parents, nodes, here = _children(nodes, level, size)
        coordinates = {name: known[parents] for name, known in coordinates.items()}
        coordinates[axis] = here
    if len(nodes) != len(sparse.values):
        raise ValueError(f"{len(sparse.values)} values are stored, the levels describe {len(nodes)}")
    for position, axis in enumerate(sparse.blocked):
        block = sizes[sparse.order.index(rank + position)]
        coordinates[axis] = coordinates[axis] * block + coordinates[rank + position]
    dense = np.zeros(sparse.shape, dtype=sparse.values.dtype)
    dense[tuple(coordinates[axis] for axis in range(rank))] = sparse.values[nodes]
    return dense


def _level_sizes(sparse: SparseTensor) -> list[int]:
    """Return how many coordinates each level has, outer levels of blocked axes counting blocks."""
    rank = len(sparse.shape)
    if sorted(sparse.order) != list(range(rank + len(sparse.blocked))) or len(sparse.levels) != len(sparse.order):
        raise ValueError(f"levels walk the axes {sparse.order} of a tensor of rank {rank}")
    if any(not 0 <= axis < rank for axis in sparse.blocked):
        raise ValueError(f"blocked axes {sparse.blocked} of a tensor of rank {rank}")
    blocks = {
        axis: sparse.levels[sparse.order.index(rank + position)].size for position, axis in enumerate(sparse.blocked)
    }
    sizes = []
    for axis, level in zip(sparse.order, sparse.levels, strict=True):
        block = blocks.get(axis, 1)
        if axis < rank and (block < 1 or sparse.shape[axis] % block):
            raise ValueError(f"axis {axis} of {sparse.shape[axis]} does not divide into blocks of {block}")
        size = level.size if axis >= rank else sparse.shape[axis] // block
        if level.segments is None and level.size != size:
            raise ValueError(f"a dense level has {level.size} coordinates, the axis has {size}")
        sizes.append(size)
    if math.prod(sizes) != math.prod(sparse.shape):
        raise ValueError(f"levels of {sizes} coordinates do not fill the shape {sparse.shape}")
    return sizes


def _room(sparse: SparseTensor) -> list[int]:
    """Return, for each level, how many nodes the entries after it can belong to: no more need to be built."""
    room, following = [], len(sparse.values)
    for level in reversed(sparse.levels):
        room.append(following)
        following = following if level.segments is None else len(level.segments) - 1
    return room[::-1]


def _children(nodes: Array, level: Level, size: int) -> tuple[Array, Array, Array]:
    """Return, for all children of `nodes`: the position of the parent, the child's number, its coordinate."""
    if level.segments is None or level.indices is None:
        parents = np.repeat(np.arange(len(nodes)), size)
        here = np.tile(np.arange(size), len(nodes))
        return parents, nodes[parents] * size + here, here
    segments, indices = level.segments.astype(np.int64), level.indices.astype(np.int64)
    _check_compressed(segments, indices, len(nodes), size)
    counts = np.diff(segments)
    return np.repeat(np.arange(len(nodes)), counts), np.arange(len(indices)), indices


def _check_compressed(segments: Array, indices: Array, parents: int, size: int) -> None:
    ends_agree = len(segments) == parents + 1 and segments[0] == 0 and segments[-1] == len(indices)
    if not ends_agree or (np.diff(segments) < 0).any():
        raise ValueError(f"{len(segments)} segments do not divide {len(indices)} entries among {parents} rows")
    if len(indices) and (indices.min() < 0 or indices.max() >= size):
        raise ValueError(f"an index lies outside the {size} coordinates of its axis")
    starts = np.zeros(len(indices), dtype=bool)
    starts[segments[:-1][segments[:-1] < len(indices)]] = True
    if len(indices) > 1 and not (starts[1:] | (np.diff(indices) > 0)).all():
        raise ValueError("the indices of a row do not ascend")


def _narrow(numbers: Sequence[int] | Array, largest: int) -> Array:
    limits: tuple[tuple[int, type[np.generic]], ...] = ((1 << 8, np.uint8), (1 << 16, np.uint16), (1 << 31, np.int32))
    for limit, dtype in limits:
        if largest < limit:
            return np.asarray(numbers, dtype=dtype)
    raise ValueError(f"{largest} does not fit into 31 bits")
