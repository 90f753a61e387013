"""Output parity: the same inputs through the PyTorch model and through a written file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pdp_export.measurements import OutputParity
from pdp_export.results import Verdict

Array = np.ndarray[Any, Any]

NEAR_ZERO = 1e-3
"""Elements with |y| below this share of max|y| are left out of the relative error: there it says nothing."""


def compare_outputs(reference: Mapping[str, Array], got: Mapping[str, Array], atol: float) -> tuple[OutputParity, ...]:
    """Compare every output of the reference with the output of the same name.

    Args:
        reference: Outputs of the PyTorch model, any rank; (N, classes) adds the top-1 agreement.
        got: Outputs of the file, in the layout of the reference.
        atol: Largest |got - y| allowed, relative to max|y| of that output.

    Returns:
        One record per output of `reference`, in its order. A missing output, another shape or a
        value that is not finite is a FAIL with its reason.
    """
    return tuple(_compare(name, values, got.get(name), atol) for name, values in reference.items())


def _compare(name: str, reference: Array, got: Array | None, atol: float) -> OutputParity:
    problem = _problem(reference, got)
    if got is None or problem:
        return OutputParity(name=name, elements=reference.size, atol=atol, verdict=Verdict.FAIL, reason=problem)
    y, z = reference.astype(np.float64), got.astype(np.float64)
    error = np.abs(z - y)
    scale = float(np.abs(y).max())
    max_abs = float(error.max())
    relative = max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else None)
    passed = relative is not None and relative <= atol
    max_rel, note = _relative_error(error, np.abs(y), scale)
    return OutputParity(
        name=name,
        elements=y.size,
        atol=atol,
        verdict=Verdict.PASS if passed else Verdict.FAIL,
        reason="" if passed else _excess(relative, max_abs, atol),
        max_abs=max_abs,
        relative_to_range=relative,
        max_rel=max_rel,
        max_rel_note=note,
        cosine=_cosine(y, z),
        top1_agreement=_top1_agreement(y, z),
    )


def _problem(reference: Array, got: Array | None) -> str:
    if got is None:
        return "the file has no output of this name"
    if got.shape != reference.shape:
        return f"shape {got.shape} instead of {reference.shape}"
    if reference.size == 0:
        return "the output has no elements"
    for owner, values in (("the PyTorch model", reference), ("the file", got)):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            return f"{bad} of {values.size} values from {owner} are NaN or infinite"
    return ""


def _excess(relative: float | None, max_abs: float, atol: float) -> str:
    if relative is None:
        return f"the PyTorch model answers all zeros, the file differs by {max_abs:.3g}"
    return f"error {relative:.3g} of max|y| is above atol {atol:.3g}"


def _relative_error(error: Array, magnitude: Array, scale: float) -> tuple[float | None, str]:
    kept = magnitude >= NEAR_ZERO * scale
    if scale == 0:
        return None, "every reference value is zero"
    left_out = int(kept.size - np.count_nonzero(kept))
    note = f"{left_out} of {kept.size} values below {NEAR_ZERO:g} of max|y| left out" if left_out else ""
    return float((error[kept] / magnitude[kept]).max()), note


def _cosine(y: Array, z: Array) -> float | None:
    norms = float(np.linalg.norm(y)) * float(np.linalg.norm(z))
    return float(np.clip(np.vdot(y, z) / norms, -1.0, 1.0)) if norms > 0 else None


def _top1_agreement(y: Array, z: Array) -> float | None:
    if y.ndim != 2 or y.shape[1] < 2:  # noqa: PLR2004  rank (N, classes) and at least two classes
        return None
    return float(np.mean(y.argmax(axis=1) == z.argmax(axis=1)))
