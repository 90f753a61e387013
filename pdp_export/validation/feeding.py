"""Feeds arrays in the model's layout to a file with its own layout, dtype and fixed batch; and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pdp_export.errors import DataError
from pdp_export.results import Pixels, TensorSpec
from pdp_export.runtimes.registry import Session

Array = np.ndarray[Any, Any]

_IMAGE_RANK = 4


def run_batches(
    session: Session, inputs: Mapping[str, Array], outputs: Sequence[str], batch: int = 64
) -> dict[str, Array]:
    """Run all samples through a session and return the outputs in the model's names and layout.

    Args:
        session: The opened file.
        inputs: Name -> array in the model's layout (NCHW for images), N samples each, batch first.
        outputs: Names of the model's outputs, in its order; a file that renamed them is matched by position.
        batch: Samples per run where the file's batch axis is dynamic. A fixed batch is obeyed; the
            last run is filled with copies of its last sample, whose results are dropped.

    Raises:
        DataError: when names, shapes or dtypes cannot be brought together.
    """
    arrays = _by_spec(session.inputs, inputs)
    samples = _sample_count(arrays)
    size = fixed_batch(session.inputs) or min(batch, samples)
    pieces: dict[str, list[Array]] = {name: [] for name in outputs}
    for feed, count in _batches(session.inputs, arrays, samples, size):
        for name, value in _in_model_terms(session, session.run(feed), outputs).items():
            pieces[name].append(_trimmed(name, value, size, count, samples))
    return {name: np.concatenate(parts) if len(parts) > 1 else parts[0] for name, parts in pieces.items()}


def first_batch(session: Session, inputs: Mapping[str, Array], batch: int) -> tuple[dict[str, Array], int]:
    """Return one batch in the file's own terms, and its number of samples (the file's, when that is fixed)."""
    arrays = _by_spec(session.inputs, inputs)
    size = fixed_batch(session.inputs) or batch
    repeated = {name: np.resize(array, (size, *array.shape[1:])) for name, array in arrays.items()}
    return {spec.name: to_file(spec, repeated[spec.name]) for spec in session.inputs}, size


def fixed_batch(specs: Sequence[TensorSpec]) -> int | None:
    """Return the batch size the file insists on, or None when every input's first axis is dynamic."""
    sizes = {spec.shape[0] for spec in specs if spec.shape and 0 not in spec.dynamic}
    if len(sizes) > 1:
        raise DataError(
            f"the inputs of the file have different fixed batch sizes {sorted(sizes)}",
            where=", ".join(spec.name for spec in specs),
            hint="every input must have the batch as its first axis",
        )
    return sizes.pop() if sizes else None


def _by_spec(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> dict[str, Array]:
    if all(spec.name in inputs for spec in specs):
        return {spec.name: inputs[spec.name] for spec in specs}
    if len(specs) == len(inputs):
        return {spec.name: array for spec, array in zip(specs, inputs.values(), strict=True)}
    raise DataError(
        f"the file has {len(specs)} inputs {[spec.name for spec in specs]}, the data has {sorted(inputs)}",
        where="inputs",
        hint="name the inputs in the recipe as the file names them",
    )


def _sample_count(arrays: Mapping[str, Array]) -> int:
    counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise DataError(
            f"the inputs have {sorted(counts)} samples; every input needs the same number, at least one", where="inputs"
        )
    return counts.pop()


def _batches(
    specs: Sequence[TensorSpec], arrays: Mapping[str, Array], samples: int, size: int
) -> Iterator[tuple[dict[str, Array], int]]:
    for start in range(0, samples, size):
        count = min(size, samples - start)
        feed = {}
        for spec in specs:
            part = arrays[spec.name][start : start + count]
            if count < size and fixed_batch(specs) is not None:
                part = np.concatenate([part, np.repeat(part[-1:], size - count, axis=0)])
            feed[spec.name] = to_file(spec, part)
        yield feed, count


def to_file(spec: TensorSpec, array: Array) -> Array:
    """Bring one array from the model's layout into the layout and dtype of a file's input.

    Raises:
        DataError: for a quantized input fed with floats, or a shape the file does not take.
    """
    dtype = np.dtype(spec.dtype)
    if array.dtype.kind == "f" and dtype.kind in "iu":
        raise DataError(
            f"the file wants {spec.dtype}, the data is {array.dtype}",
            where=f"input {spec.name}",
            hint="convert with float inputs, or quantize the data with the file's own scale",
        )
    if spec.layout == "NHWC" and array.ndim == _IMAGE_RANK:
        array = array.transpose(0, 2, 3, 1)
    wanted = tuple(None if axis in spec.dynamic else size for axis, size in enumerate(spec.shape))
    fits = array.ndim == len(wanted) and all(w in (None, s) for w, s in zip(wanted[1:], array.shape[1:], strict=True))
    if not fits:
        raise DataError(f"the file takes shape {spec.shape}, the data has {array.shape}", where=f"input {spec.name}")
    if spec.pixels is not None:
        array = _as_pixels(array, spec.pixels)
    return np.ascontiguousarray(array, dtype=dtype)


def _as_pixels(array: Array, pixels: Pixels) -> Array:
    """Undo the scaling that the file does itself; (N, C, H, W)."""
    scale, bias = (np.array(values, np.float64).reshape(1, -1, 1, 1) for values in (pixels.scale, pixels.bias))
    return (array.astype(np.float64) - bias) / scale


def contiguous(array: Array) -> Array:
    """Return the array in C order, as files of arrays want it; a scalar stays one."""
    return np.asarray(array, order="C")


def _in_model_terms(session: Session, values: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    layouts = {spec.name: spec.layout for spec in session.outputs}
    if all(name in values for name in names):
        own = list(names)
    elif len(session.outputs) == len(names):
        own = [spec.name for spec in session.outputs]
    else:
        raise DataError(
            f"the file has outputs {sorted(values)}, the model has {list(names)}",
            where="outputs",
            hint="give every output a name in the recipe",
        )
    return {name: _from_file(values[mine], layouts.get(mine, "any")) for name, mine in zip(names, own, strict=True)}


def _from_file(array: Array, layout: str) -> Array:
    return array.transpose(0, 3, 1, 2) if layout == "NHWC" and array.ndim == _IMAGE_RANK else array


def _trimmed(name: str, value: Array, size: int, count: int, samples: int) -> Array:
    if value.ndim and value.shape[0] in (size, count):
        return value[:count]
    if samples == size:
        return value
    raise DataError(
        f"shape {value.shape} has no batch axis of {size}, so {samples} samples cannot be joined",
        where=f"output {name}",
        hint=f"give exactly {size} samples",
    )
