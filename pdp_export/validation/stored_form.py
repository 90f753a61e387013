"""How a file stores its weights, against what was asked: the dtype, the sparse encoding, and the bytes it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdp_export.measurements import SizeResult
from pdp_export.results import Check, FileFacts, TensorFacts, Verdict
from pdp_export.targets import Target

Array = np.ndarray[Any, Any]

DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
SMALLEST = 4096
"""Elements from which on a weight outweighs what an encoding costs once: names, nodes, tables."""
CLEAR = 0.75
"""A weight pays for its encoding for certain when at most this share of its dense bits is predicted."""

AGAIN = "weights are dense again: an optimizer ran over the file after its weights were encoded"

_MATRIX = 2
_LISTED = 3


def check_dtype(facts: FileFacts, precision: str, encoding: str = "auto") -> Check:
    """Compare the stored dtype of every floating weight of rank >= 2 with the precision that was asked for.

    A narrower dtype fails. A wider one passes only where values of its layer exceed the asked dtype (coremltools
    keeps such a layer in float32), or where the model itself has a constant in float64; the reason says which.
    """
    asked = DTYPES[precision]
    weights = [tensor for tensor in _matrices(facts) if "float" in tensor.dtype]
    if not weights:
        return Check(name="dtype", verdict=Verdict.NOT_RUN, reason="the file has no weight of rank 2 or more")
    others = [tensor for tensor in weights if _float_dtype(tensor, encoding) != asked]
    excuses = {tensor.name: _excuse(tensor, facts, asked) for tensor in others}
    wrong = [f"{tensor.name} is {tensor.stored_dtype}" for tensor in others if not excuses[tensor.name]]
    if wrong:
        reason = f"{len(wrong)} of {len(weights)} weights are not stored as {asked}: {_listed(wrong)}"
        return Check(name="dtype", verdict=Verdict.FAIL, reason=reason)
    kept = [f"{tensor.name} is {tensor.stored_dtype}: {excuses[tensor.name]}" for tensor in others]
    return Check(name="dtype", verdict=Verdict.PASS, reason=_listed(kept))


def paying_weights(weights: Mapping[str, Array], precision: str, encoding: str, target: Target) -> list[str]:
    """Return the weights with so many zeros that `target` has to store at least one of them sparsely.

    Each is named with its share of zeros, the sparsest first. Small weights and close calls (`SMALLEST`, `CLEAR`) are
    left to the converter, as is everything where the target declares no cost of its encodings.
    """
    dense = target.predicted_bits(precision, "dense", 0.0)
    shares = {name: 1 - np.count_nonzero(w) / w.size for name, w in weights.items() if w.size >= SMALLEST}
    found = []
    for name, zeros in sorted(shares.items(), key=lambda item: -item[1]):
        bits = target.predicted_bits(precision, encoding, zeros)
        if dense is not None and bits is not None and bits <= CLEAR * dense:
            found.append(f"{name} ({zeros:.1%} zeros)")
    return found


def check_size(size: SizeResult, facts: FileFacts, encoding: str, paying: Sequence[str]) -> Check:
    """Check that zeros became bytes: weights are stored sparsely where that pays, and the file did not grow.

    Args:
        size: The file and its dense twin, measured.
        facts: What the file holds.
        encoding: What was asked for; "dense" promises nothing and passes.
        paying: What `paying_weights` found.

    Returns:
        The check ``size``; its value is dense / pruned bytes, its limit 1.
    """
    ratio = f"{size.ratio:.3g} times smaller than the dense file" if size.ratio else "no dense file to compare with"
    if encoding == "dense" and not facts.expanded:
        return Check(name="size", verdict=Verdict.PASS, value=size.ratio, reason=f"stored densely as asked; {ratio}")
    sparse = sum(tensor.encoding != "dense" for tensor in _matrices(facts))
    problems = []
    if paying and not sparse:
        problems.append(f"no weight is stored sparsely; {len(paying)} would get smaller by it: {_listed(paying)}")
    if facts.expanded:
        problems.append(AGAIN)
    if size.dense_bytes is not None and size.pruned_bytes > size.dense_bytes:
        problems.append(f"the file has {size.pruned_bytes} bytes, the dense one {size.dense_bytes}")
    return Check(
        name="size",
        verdict=Verdict.FAIL if problems else Verdict.PASS,
        value=size.ratio,
        limit=1.0,
        reason="; ".join(problems) or f"{ratio}; weights stored sparsely: {sparse}",
    )


def _matrices(facts: FileFacts) -> list[TensorFacts]:
    return [tensor for tensor in facts.tensors if len(tensor.shape) >= _MATRIX]


def _float_dtype(tensor: TensorFacts, encoding: str) -> str:
    """Return the stored dtype; for the integers or the palette that were asked for, the dtype that they decode to."""
    numbers = encoding.rpartition("+")[2]
    return tensor.dtype if numbers in tensor.encoding.split("+") else tensor.stored_dtype


def _excuse(tensor: TensorFacts, facts: FileFacts, asked: str) -> str:
    """Return why a tensor may be wider than `asked`, or an empty string: it is narrower, or nothing explains it."""
    if tensor.stored_dtype == "float64" and asked == "float32":
        return "a float64 constant of the model"
    layer = _layer(tensor.name)
    values = [item.max_abs for item in facts.tensors if _layer(item.name) == layer and item.max_abs is not None]
    if "float" not in asked:
        return ""
    largest, limit = max(values, default=0.0), float(np.finfo(asked).max)
    return f"{largest:.3g} exceeds {asked}" if tensor.stored_dtype == "float32" and largest > limit else ""


def _layer(name: str) -> str:
    """Return the part before the last dot, or the last underscore where a format has no dots in names."""
    return name.rpartition("." if "." in name else "_")[0] or name


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:_LISTED]) + (f" and {len(items) - _LISTED} more" if len(items) > _LISTED else "")
