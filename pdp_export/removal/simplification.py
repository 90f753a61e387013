"""The function-preserving preparation that dense and pruned models share: capture, fold, prove, round once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from pdp_export.errors import RemovalError
from pdp_export.graph.capture import Dynamic, capture, dynamic_axes
from pdp_export.graph.nodes import tensor_of, used_tensors
from pdp_export.removal.folding import fold_batch_norms
from pdp_export.removal.precision import narrowed, widened
from pdp_export.removal.proof import Inputs, proof_inputs, prove


@dataclass(frozen=True)
class Prepared:
    """A program in float64, before and after folding, with everything needed to prove and re-capture it.

    `moved` maps a node of `folded` to the node of `original` whose value it computes, where names differ.
    """

    original: GraphModule
    folded: GraphModule
    moved: Mapping[str, str]
    inputs: Inputs
    dynamic: Dynamic
    cases: list[Inputs]
    error: float


def simplify(
    model_or_program: nn.Module | ExportedProgram,
    example_inputs: Inputs | None = None,
    dynamic: Dynamic | None = None,
) -> ExportedProgram:
    """Return the same function as a float32 program whose BatchNorms are folded where a layer precedes them.

    The fold happens in float64, is proven there and rounded once; zeros stay exact and become +0.0.
    A module is left unchanged, in its own train or eval mode.

    Args:
        model_or_program: A module, or a program that is already captured.
        example_inputs: Positional inputs; may be left out for a program that carries its own.
        dynamic: Input index -> axis -> name; a program knows its own.

    Raises:
        CaptureError: torch.export cannot capture the module.
        RemovalError: a weight is NaN or infinite.
        ProofError: the folded program differs by more than 1e-12 of max|y|.
    """
    prepared = prepare(model_or_program, example_inputs, dynamic)
    return recapture(prepared.folded, prepared)


def prepare(
    model_or_program: nn.Module | ExportedProgram, example_inputs: Inputs | None, dynamic: Dynamic | None
) -> Prepared:
    """Capture, widen and fold, with the proof of the fold."""
    program, inputs, axes = _captured(model_or_program, example_inputs, dynamic)
    original = widened(program)
    _require_finite(original)
    folded = widened(program)
    moved = fold_batch_norms(folded)

    def expected(node: Node, old: Mapping[str, Tensor]) -> Tensor | None:
        return old.get(moved.get(node.name, node.name))

    cases = proof_inputs(inputs, axes)
    error = prove(original, folded, cases, stage="folding BatchNorm", expected=expected)
    return Prepared(original, folded, moved, inputs, axes, cases, error)


def recapture(module: GraphModule, prepared: Prepared) -> ExportedProgram:
    """Round an edited float64 module to float32 and capture it as a clean program."""
    inputs = tuple(value.float() if value.is_floating_point() else value for value in prepared.inputs)
    return capture(narrowed(module), inputs, prepared.dynamic)


def _captured(
    model_or_program: nn.Module | ExportedProgram, example_inputs: Inputs | None, dynamic: Dynamic | None
) -> tuple[ExportedProgram, Inputs, Dynamic]:
    if isinstance(model_or_program, nn.Module):
        if example_inputs is None:
            raise RemovalError("example_inputs are needed to capture a module", hint="pass a tuple of tensors")
        program = capture(model_or_program, example_inputs, dynamic)
        return program, _on_cpu(program.example_inputs[0]), dynamic or {}
    program = model_or_program
    carried, keywords = program.example_inputs or ((), {})
    if keywords:
        raise RemovalError(
            f"the program takes keyword inputs ({', '.join(keywords)})", hint="capture it with positional inputs"
        )
    inputs = example_inputs if example_inputs is not None else tuple(carried)
    if not inputs:
        raise RemovalError("the program carries no example inputs", hint="pass example_inputs")
    return program, _on_cpu(inputs), dynamic if dynamic is not None else dynamic_axes(program)


def _on_cpu(inputs: Iterable[Tensor]) -> Inputs:
    return tuple(value.detach().cpu() for value in inputs)


def _require_finite(module: GraphModule) -> None:
    """Raise on NaN and Inf weights: 0 x Inf is not 0, so nothing could be folded or dropped exactly.

    Buffers may hold them, as attention masks do.
    """
    for name in used_tensors(module):
        tensor = tensor_of(module, name)
        if isinstance(tensor, nn.Parameter) and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise RemovalError(
                f"{count} of {tensor.numel()} values are NaN or infinite; a zero beside them cannot be dropped exactly",
                where=name,
                hint="train from the last good checkpoint, or repair this tensor",
            )
