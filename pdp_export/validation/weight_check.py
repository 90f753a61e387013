"""Weight parity: every weight decoded from a written file against the PyTorch weight, bit by bit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdp_export.measurements import WeightCheck
from pdp_export.results import StoredWeight, Verdict
from pdp_export.validation.stored_values import Form, as_stored, form_of

Array = np.ndarray[Any, Any]
_ROUNDING = 1e-5  # of float32, in the division by the scale
Pair = tuple[str, Array, Array]


def check_stored_weights(expected: Mapping[str, Array], stored: Sequence[StoredWeight]) -> WeightCheck:
    """Compare the weights of the program that was converted with those decoded from the file.

    Expected values are rounded to the dtype the file stores before they are compared, or quantised by the codec it
    names (see `stored_values`), and zeros of either sign count as equal. A weight is found by its name, else by its
    bytes, else as the closest one of its shape: converters rename. Axes of length 1 after the second are ignored, so
    a Linear may be stored as a 1x1 convolution. Integers with a scale have to be the nearest ones, and 0 where the
    weight is zero; they are found by name.

    Args:
        expected: name -> float32 values, (C_out, C_in/groups, kH, kW) or (C_out, C_in), rank >= 2.
        stored: What `Runtime.weights` returned, in the same layout; weights nobody expects are ignored.

    Returns:
        PASS only when every expected weight was found and no element differs.
    """
    quantized = [weight.name for weight in stored if weight.values.dtype.kind in "iub"]
    scaled = {weight.name: weight for weight in stored if _fits(weight, expected.get(weight.name))}
    floats = {name: values for name, values in expected.items() if name not in scaled}
    pairs, unmatched = _match(floats, [weight for weight in stored if weight.name not in quantized])
    differing = {name: int(np.count_nonzero(_bits(mine) != _bits(theirs))) for name, mine, theirs in pairs}
    for name, weight in scaled.items():
        mine = expected[name].reshape(weight.values.shape)
        differing[name] = int(np.count_nonzero(_off_grid(mine, weight)))
        pairs.append((name, mine, weight.values))
    bad = sorted((name for name, count in differing.items() if count), key=lambda name: -differing[name])
    verdict, reason = _judge(unmatched, quantized, bad, differing)
    return WeightCheck(
        verdict=verdict,
        reason=reason,
        tensors_expected=len(expected),
        tensors_compared=len(pairs),
        elements=sum(mine.size for _, mine, _ in pairs),
        differing_elements=sum(differing.values()),
        zeros_expected=sum(int(np.count_nonzero(mine == 0)) for _, mine, _ in pairs),
        zeros_found=sum(int(np.count_nonzero(theirs == 0)) for _, _, theirs in pairs),
        unmatched=tuple(unmatched),
    )


def _judge(
    unmatched: list[str], quantized: list[str], bad: list[str], differing: Mapping[str, int]
) -> tuple[Verdict, str]:
    if bad:
        total = sum(differing.values())
        return Verdict.FAIL, f"{total} elements differ, most in {bad[0]} ({differing[bad[0]]})"
    if unmatched and quantized:
        return Verdict.NOT_RUN, f"{len(quantized)} tensors are stored quantized ({quantized[0]}), not as floats"
    if unmatched:
        return Verdict.FAIL, f"{len(unmatched)} expected tensors are not in the file: {', '.join(unmatched[:3])}"
    if not differing:
        return Verdict.NOT_RUN, "the model has no weight of rank 2 or more"
    return Verdict.PASS, ""


def _match(expected: Mapping[str, Array], stored: Sequence[StoredWeight]) -> tuple[list[Pair], list[str]]:
    left = dict(enumerate(stored))
    pairs: list[Pair] = []
    missing = dict(expected)
    for rule in (_same_name, _same_bytes, _closest_of_shape):
        for name, index in rule(missing, left):
            theirs = left.pop(index)
            mine = missing.pop(name).reshape(theirs.values.shape)
            pairs.append((name, as_stored(mine, _form(theirs)), theirs.values))
    return pairs, list(missing)


def _same_name(missing: Mapping[str, Array], left: Mapping[int, StoredWeight]) -> list[tuple[str, int]]:
    by_name = {weight.name: index for index, weight in left.items()}
    return [
        (name, by_name[name])
        for name, values in missing.items()
        if name in by_name and _shape(left[by_name[name]].values) == _shape(values)
    ]


def _same_bytes(missing: Mapping[str, Array], left: Mapping[int, StoredWeight]) -> list[tuple[str, int]]:
    by_content: dict[tuple[tuple[int, ...], bytes], list[int]] = defaultdict(list)
    for index, weight in left.items():
        by_content[_shape(weight.values), _bits(weight.values).tobytes()].append(index)
    forms = {_form(weight) for weight in left.values()}
    found = []
    for name, values in missing.items():
        for form in forms:
            same = by_content.get((_shape(values), _bits(as_stored(values, form)).tobytes()))
            if same:
                found.append((name, same.pop(0)))
                break
    return found


def _closest_of_shape(missing: Mapping[str, Array], left: Mapping[int, StoredWeight]) -> list[tuple[str, int]]:
    distances = sorted(
        (int(np.count_nonzero(as_stored(values, _form(weight)).ravel() != weight.values.ravel())), name, index)
        for name, values in missing.items()
        for index, weight in left.items()
        if _shape(weight.values) == _shape(values)
    )
    names: set[str] = set()
    taken: set[int] = set()
    found = []
    for _, name, index in distances:
        if name not in names and index not in taken:
            names.add(name)
            taken.add(index)
            found.append((name, index))
    return found


def _fits(weight: StoredWeight, expected: Array | None) -> bool:
    return weight.scale is not None and expected is not None and _shape(weight.values) == _shape(expected)


def _off_grid(expected: Array, weight: StoredWeight) -> Array:
    """Return where an integer is neither the nearest one nor the end of its range, or not 0 for a zero."""
    scale = np.asarray(weight.scale, np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = np.where(scale > 0, expected / scale, 0.0)  # (…) in units of one integer
    info = np.iinfo(weight.values.dtype)
    exact = np.clip(steps, -info.max, info.max)
    off: Array = np.abs(weight.values - exact) > 0.5 + _ROUNDING * np.abs(exact)
    off |= (expected == 0) & (weight.values != 0)
    return off


def _shape(values: Array) -> tuple[int, ...]:
    return (*values.shape[:2], *(size for size in values.shape[2:] if size != 1))


def _form(weight: StoredWeight) -> Form:
    return form_of(weight.values.dtype, weight.encoding)


def _bits(values: Array) -> Array:
    positive_zeros = np.ascontiguousarray(values + values.dtype.type(0))
    return positive_zeros.view(f"u{values.dtype.itemsize}")
