"""The ``constexpr_*`` operators: compressed constants and the arrays they stand for, numpy only.

Written from the operators' documentation (coremltools, ``mil/ops/defs/iOS16/constexpr_ops.py`` and
``iOS18/compression.py``). Products are formed in float32 and rounded to the type of the scale once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pdp_export.errors import FileError
from pdp_export.runtimes.mil.weight_file import Array, require_possible, unpacked

Arguments = Mapping[str, Any]
_PALETTE_TRAILING_AXES = 2


def evaluate(kind: str, arguments: Arguments, name: str) -> tuple[Array, ...]:
    """Return the results of one ``constexpr_*`` operator (a mask of truths, then values, for the sparse ones).

    Raises:
        FileError: for an unknown operator, missing arguments or arguments that contradict each other.
    """
    if kind not in FORMS:
        raise FileError(f"{kind} is a form of constant that is not decoded here", where=name)
    try:
        return FORMS[kind](arguments)
    except FileError as error:
        raise FileError(error.what, where=name, hint=error.hint) from error
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise FileError(
            f"the arguments of {kind} contradict each other ({type(error).__name__}: {error})",
            where=name,
            hint="the file is damaged or foreign; write it again",
        ) from error


def _cast(arguments: Arguments) -> tuple[Array, ...]:
    dtype = {"fp16": np.float16, "fp32": np.float32}[arguments["output_dtype"]]
    return (arguments["source_val"].astype(dtype),)


def _affine_dequantize(arguments: Arguments) -> tuple[Array, ...]:
    data, scale = arguments["quantized_data"], arguments["scale"]
    shape = [1] * data.ndim
    if scale.ndim or arguments["zero_point"].ndim:
        shape[int(arguments["axis"])] = -1
    return (_scaled(data, _along(scale, shape), _along(arguments["zero_point"], shape), scale.dtype),)


def _along(vector: Array, shape: list[int]) -> Array:
    return vector.reshape(shape) if vector.ndim else vector


def _blockwise_shift_scale(arguments: Arguments) -> tuple[Array, ...]:
    data, scale = arguments["data"], arguments["scale"]
    offset = arguments.get("offset")
    spread = _spread(scale, data.shape)
    return (_scaled(data, spread, None if offset is None else _spread(offset, data.shape), scale.dtype),)


def _sparse_blockwise_shift_scale(arguments: Arguments) -> tuple[Array, ...]:
    mask, scale = arguments["data_mask"].astype(bool), arguments["scale"]
    values, offset = _counted(arguments["nonzero_data"], mask), arguments.get("offset")
    spread = _spread(scale, mask.shape)[mask]
    return mask, _scaled(values, spread, None if offset is None else _spread(offset, mask.shape)[mask], scale.dtype)


def _scaled(data: Array, scale: Array, offset: Array | None, dtype: np.dtype[Any]) -> Array:
    shifted = data.astype(np.float32) - (np.float32(0) if offset is None else offset.astype(np.float32))
    with np.errstate(over="ignore"):
        return np.asarray((scale.astype(np.float32) * shifted).astype(dtype))


def _spread(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Repeat each scale over its block: the block size is ``shape / blocks.shape``."""
    if blocks.ndim != len(shape) or any(size % count for size, count in zip(shape, blocks.shape, strict=True)):
        raise FileError(f"scales of shape {list(blocks.shape)} do not divide a tensor {list(shape)}")
    for axis, (size, count) in enumerate(zip(shape, blocks.shape, strict=True)):
        if count not in (1, size):
            blocks = np.repeat(blocks, size // count, axis=axis)
    return np.broadcast_to(blocks, shape)


def _lut_to_dense(arguments: Arguments) -> tuple[Array, ...]:
    indices, lut = arguments["indices"], arguments["lut"]
    if "shape" in arguments:  # iOS 16: one table, packed indices
        shape = tuple(int(size) for size in arguments["shape"])
        require_possible(shape, "a palette")
        bits = lut.size.bit_length() - 1
        if lut.ndim != 1 or lut.size != 1 << bits or not 1 <= bits <= 8:  # noqa: PLR2004  bits of an index
            raise FileError(f"a palette has {lut.size} entries, not a power of two up to 256")
        return (lut[unpacked(indices, bits, math.prod(shape), "a palette")].reshape(shape),)
    return (_vectors_along(_looked_up(indices, lut), arguments.get("vector_axis")),)


def _looked_up(indices: Array, lut: Array) -> Array:
    """Return the vectors of all indices: the shape of `indices` and, last, the length of a vector."""
    tables = lut.shape[:-_PALETTE_TRAILING_AXES]
    if len(tables) != indices.ndim or any(s % t for s, t in zip(indices.shape, tables, strict=True)):
        raise FileError(f"palettes of shape {list(lut.shape)} do not divide indices {list(indices.shape)}")
    if indices.size and int(indices.max()) >= lut.shape[-2]:
        raise FileError(f"an index reaches {int(indices.max())}; the palette has {lut.shape[-2]} entries")
    number = _spread(np.arange(math.prod(tables)).reshape(tables), indices.shape)
    return np.asarray(lut.reshape(-1, *lut.shape[-2:])[number, indices.astype(np.intp)])


def _vectors_along(vectors: Array, axis: Any) -> Array:
    """Lay the vectors (last axis) out along `axis`, each after the other."""
    length = vectors.shape[-1]
    if length == 1:
        return vectors[..., 0]
    place = int(axis) % (vectors.ndim - 1)
    moved = np.moveaxis(vectors, -1, place + 1)
    shape = (*moved.shape[:place], moved.shape[place] * length, *moved.shape[place + 2 :])
    return moved.reshape(shape)


def _lut_to_sparse(arguments: Arguments) -> tuple[Array, ...]:
    mask, lut = arguments["indices_mask"].astype(bool), arguments["lut"]
    spread = np.zeros(mask.shape, np.uint8)
    spread[mask] = _counted(arguments["indices_nonzero_data"], mask)
    axis = arguments.get("vector_axis")
    wide = _vectors_along(np.repeat(mask[..., None], lut.shape[-1], axis=-1), axis)
    return wide, _vectors_along(_looked_up(spread, lut), axis)[wide]


def _sparse_to_dense(arguments: Arguments) -> tuple[Array, ...]:
    mask = arguments["mask"]
    if "shape" in arguments:  # iOS 16: bits packed into bytes
        shape = tuple(int(size) for size in arguments["shape"])
        require_possible(shape, "a mask")
        mask = unpacked(mask, 1, math.prod(shape), "a mask").reshape(shape)
    mask = mask.astype(bool)
    values = _counted(arguments["nonzero_data"], mask)
    dense = np.zeros(mask.shape, dtype=values.dtype)
    dense[mask] = values
    return (dense,)


def _counted(values: Array, mask: Array) -> Array:
    if values.ndim != 1 or int(mask.sum()) != values.size:
        raise FileError(
            f"the mask has {int(mask.sum())} bits set and {values.size} values are stored",
            hint="the file is damaged; write it again",
        )
    return values


FORMS: dict[str, Callable[[Arguments], tuple[Array, ...]]] = {
    "constexpr_cast": _cast,
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise_shift_scale,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}
