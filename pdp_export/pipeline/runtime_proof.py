"""The last proof of channel removal: the written file, opened again in its runtime, against the model as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pdp_export.converters import registry
from pdp_export.errors import ProofError
from pdp_export.graph.capture import inference_mode
from pdp_export.removal.proof import relative_difference
from pdp_export.results import Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from pdp_export.pipeline.api import FileVerdict
    from pdp_export.removal import Removed

LIMIT = 1e-5
"""Largest difference allowed in float32, relative to max|y| of each output."""


def prove_in_runtime(
    model: nn.Module | ExportedProgram, removed: Removed, inputs: tuple[Tensor, ...], target: str
) -> str:
    """Compare the model with what removal made of it, where it will run; return what was found in one line.

    Raises:
        ProofError: when an output differs by more than `LIMIT`.
        ConversionError: when the target cannot express the result.
    """
    if target == "torch":
        return _in_torch(model, removed, inputs)
    from pdp_export.pipeline.api import convert, validate

    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        path = Path(folder) / f"removed{registry.load(target).TARGET.suffix}"
        artifact = convert(removed.program, path, target=target, encoding="dense")
        module = model if isinstance(model, torch.nn.Module) else model.module()
        verdict = validate(artifact, reference=module, inputs=inputs, atol=LIMIT)
    return _line(verdict, target)


def _in_torch(model: nn.Module | ExportedProgram, removed: Removed, inputs: tuple[Tensor, ...]) -> str:
    from torch.utils import _pytree as pytree

    module = model if isinstance(model, torch.nn.Module) else model.module()
    with torch.no_grad(), inference_mode(module):
        old, new = (pytree.tree_leaves(item(*inputs)) for item in (module, removed.module))
    worst = max(relative_difference(a, b) for a, b in zip(old, new, strict=True))
    if worst > LIMIT:
        raise _error("torch", f"outputs differ by {worst:.1e} of max|y|")
    return f"torch: {worst:.1e} of max|y|, limit {LIMIT:.0e}"


def _line(verdict: FileVerdict, target: str) -> str:
    if verdict.verdict is Verdict.NOT_RUN:
        return f"{target}: not run here ({'; '.join(verdict.reasons)})"
    if verdict.verdict is not Verdict.PASS:
        raise _error(target, "; ".join(verdict.reasons))
    worst = max(item.relative_to_range or 0.0 for item in verdict.parity)
    return f"{target}: {worst:.1e} of max|y|, limit {LIMIT:.0e}"


def _error(target: str, found: str) -> ProofError:
    return ProofError(
        f"removing channels changed the function in the runtime of {target}: {found}, allowed are {LIMIT:.0e}",
        where=target,
        hint="in float64 both were equal: look for large values that cancel, or leave target out",
    )
