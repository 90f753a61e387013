"""One pruned network in all forms that are compared, each a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.onnx_encoding.subjects import SUBJECTS
from pdp_export.converters import onnx_int8, onnx_sparse

if TYPE_CHECKING:
    from onnx import ModelProto

Array = np.ndarray[Any, Any]

ENCODED = {
    "dense": ("dense", "load"),
    "gap8": ("gap8", "load"),
    "bitmask": ("bitmask", "load"),
    "bitmask2": ("bitmask2", "load"),
    "auto, load": ("auto", "load"),
    "auto, size": ("auto", "size"),
}
"""Form -> (encoding, what auto looks for)."""
FORMS = (*ENCODED, "coo", "fp16, load", "fp16, size", "int8 dense", "int8, load", "int8, size")


def write(name: str, pruned: ModelProto, folder: Path) -> Iterator[tuple[str, Path]]:
    """Write every form of a pruned model and yield its name and file."""
    for form, (encoding, objective) in ENCODED.items():
        yield form, _saved(pruned, form, folder, encoding, objective)
    yield "coo", _coo(pruned, folder / "coo.onnx")
    for objective in ("load", "size"):
        yield f"fp16, {objective}", _saved(pruned, f"fp16, {objective}", folder, "auto", objective, half=True)
    samples = {"input": SUBJECTS[name].sample(8).numpy()}
    quantized = onnx_int8.quantize(pruned, samples, reduce_range=False)
    del quantized.graph.value_info[:]
    yield "int8 dense", _saved(quantized, "int8 dense", folder, "dense", "load")
    for objective in ("load", "size"):
        yield f"int8, {objective}", _saved(quantized, f"int8, {objective}", folder, "auto", objective)


def _saved(model: ModelProto, form: str, folder: Path, encoding: str, objective: str, *, half: bool = False) -> Path:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx_sparse.encode(copy, encoding, objective, half=half)
    path = folder / f"{form.replace(', ', '-').replace(' ', '-')}.onnx"
    path.write_bytes(copy.SerializeToString(deterministic=True))
    return path


def _coo(model: ModelProto, path: Path) -> Path:
    """Write linear int64 indices, the only sparse_initializer that the ONNX checker accepts."""
    import onnx
    from onnx import helper, numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept, sparse = [], []
    for item in copy.graph.initializer:
        values = numpy_helper.to_array(item)
        places = np.flatnonzero(values)
        if len(item.dims) > 1 and 12 * places.size < values.nbytes:
            stored = numpy_helper.from_array(values.ravel()[places], item.name)
            sparse.append(
                helper.make_sparse_tensor(stored, numpy_helper.from_array(places.astype(np.int64)), list(item.dims))
            )
        else:
            kept.append(item)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    copy.graph.sparse_initializer.extend(sparse)
    path.write_bytes(copy.SerializeToString(deterministic=True))
    return path


def floors(pruned: ModelProto, names: list[str], dense_bytes: int, value_bytes: int = 4) -> dict[str, float]:
    """Return bytes that no code of mask and values of that width gets below: 1 bit per weight, or the mask's entropy.

    What is not pruned (biases, small weights, nodes) is counted as it is in the dense file.
    """
    from onnx import numpy_helper

    entropy = kept = elements = 0.0
    for item in pruned.graph.initializer:
        if item.name in names:
            values = numpy_helper.to_array(item)
            share = np.count_nonzero(values) / values.size
            terms = [p * np.log2(p) for p in (share, 1 - share) if p > 0]
            entropy -= values.size * sum(terms)
            kept += np.count_nonzero(values)
            elements += values.size
    rest = dense_bytes - 4 * elements
    return {"bit": rest + elements / 8 + value_bytes * kept, "entropy": rest + entropy / 8 + value_bytes * kept}
