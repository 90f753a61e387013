"""The last proof of channel removal: the written file, opened again in its runtime, against the model as it was."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from pdp_export.converters import registry
from pdp_export.errors import ProofError
from pdp_export.graph.capture import inference_mode, quiet_export
from pdp_export.removal.precision import widened
from pdp_export.removal.proof import relative_difference
from pdp_export.removal.simplification import simplify
from pdp_export.results import Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from pdp_export.removal import Removed

LIMIT = 1e-5
"""Largest difference allowed in float32, relative to max|y| of each output, unless the network rounds worse itself."""

_ANY = 1e9
"""A limit that every difference passes: it is judged afterwards."""

_ROUNDING = 4.0
"""How many times its own float32 rounding a network may differ: another order of sums rounds otherwise."""


def prove_in_runtime(
    model: nn.Module | ExportedProgram, removed: Removed, inputs: tuple[Tensor, ...], target: str
) -> str:
    """Compare the model with what removal made of it, where it will run; return what was found in one line.

    A deep network can differ from itself in float64 by more than `LIMIT`. What rounding alone does to the result is
    measured on these inputs, in torch and, where that is not enough, in the target's runtime with nothing removed, and
    four times that is allowed where it is more.

    Raises:
        ProofError: when an output differs by more than that.
        ConversionError: when the target cannot express the result.
    """
    module = _float32(model if isinstance(model, torch.nn.Module) else model.module())
    inputs = tuple(value.detach().cpu().float() if value.is_floating_point() else value.cpu() for value in inputs)
    limit = max(LIMIT, _ROUNDING * _rounding(removed, inputs))
    if target == "torch":
        return _in_torch(module, removed, inputs, limit)
    found = _in_runtime(removed.program, module, inputs, target)
    if isinstance(found, str):
        return f"{target}: not run here ({found})"
    if found > limit:  # some runtimes round worse than torch (Winograd's convolution): what do they make of the model?
        before = _in_runtime(simplify(model, inputs), module, inputs, target)
        limit = max(limit, _ROUNDING * before) if isinstance(before, float) else limit
    if found > limit:
        raise _error(target, f"outputs differ by {found:.1e} of max|y|", limit)
    return f"{target}: {found:.1e} of max|y|, limit {limit:.0e}"


def _in_runtime(program: ExportedProgram, module: nn.Module, inputs: tuple[Tensor, ...], target: str) -> float | str:
    """Return how far a program is from the module in a target's runtime, relative to max|y|; or why it cannot run."""
    from pdp_export.pipeline.api import convert, validate

    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        path = Path(folder) / f"removed{registry.load(target).TARGET.suffix}"
        artifact = convert(program, path, target=target, encoding="dense", precision="fp32")
        verdict = validate(artifact, reference=module, inputs=inputs, atol=_ANY)
    if verdict.verdict is Verdict.NOT_RUN:
        return "; ".join(verdict.reasons)
    if any(item.relative_to_range is None for item in verdict.parity) or verdict.verdict is not Verdict.PASS:
        raise _error(target, "; ".join(verdict.reasons), LIMIT)
    return max(item.relative_to_range or 0.0 for item in verdict.parity)


def _float32(module: nn.Module) -> nn.Module:
    """Return the module as removal leaves it, in float32 on the CPU; a copy where it is not there."""
    tensors = [*module.parameters(), *module.buffers()]
    there = all(
        item.device.type == "cpu" and item.dtype is torch.float32 for item in tensors if item.is_floating_point()
    )
    if there:
        return module
    with quiet_export():  # copying a captured module warns
        return copy.deepcopy(module).to("cpu", torch.float32)


def _rounding(removed: Removed, inputs: tuple[Tensor, ...]) -> float:
    """Return how far the result in float32 is from itself in float64."""
    exact = tuple(value.double() if value.is_floating_point() else value for value in inputs)
    with torch.no_grad():
        return _difference(widened(removed.program)(*exact), removed.module(*inputs))


def _difference(old: Any, new: Any) -> float:
    pairs = zip(pytree.tree_leaves(old), pytree.tree_leaves(new), strict=True)
    return max(relative_difference(a, b.to(a.dtype)) for a, b in pairs)


def _in_torch(module: nn.Module, removed: Removed, inputs: tuple[Tensor, ...], limit: float) -> str:
    with torch.no_grad(), inference_mode(module):
        worst = _difference(module(*inputs), removed.module(*inputs))
    if worst > limit:
        raise _error("torch", f"outputs differ by {worst:.1e} of max|y|", limit)
    return f"torch: {worst:.1e} of max|y|, limit {limit:.0e}"


def _error(target: str, found: str, limit: float) -> ProofError:
    return ProofError(
        f"removing channels changed the function in the runtime of {target}: {found}, allowed are {limit:.0e}",
        where=target,
        hint="in float64 both were equal: look for large values that cancel, or leave target out",
    )
