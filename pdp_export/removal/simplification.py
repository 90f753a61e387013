"""The function-preserving preparation that dense and pruned models share: capture, fold, prove, round once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from pdp_export.errors import CaptureError, RemovalError
from pdp_export.graph.capture import Dynamic, capture, dynamic_axes, input_values
from pdp_export.graph.dynamic_sizes import other_sizes
from pdp_export.graph.nodes import BATCH_NORM, LAYERS, argument, operator, tensor_of, used_tensors
from pdp_export.removal.batched_heads import separate_heads
from pdp_export.removal.folding import fold_batch_norms
from pdp_export.removal.precision import narrowed, widened
from pdp_export.removal.proof import Inputs, proof_inputs, prove
from pdp_export.removal.stored_parts import store_parts


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
    for index, value in enumerate(inputs):
        if bool(value.isnan().any()):
            raise RemovalError(
                f"example input {index} holds NaN, on which nothing could be proven",
                where=f"example_inputs[{index}]",
                hint="pass a real example",
            )
    original = widened(program)
    _require_finite(original)
    folded = widened(program)
    store_parts(folded)
    separate_heads(folded)
    moved = fold_batch_norms(folded)

    def expected(node: Node, old: Mapping[str, Tensor]) -> Tensor | None:
        return old.get(moved.get(node.name, node.name))

    sizes = {index: found for index, found in other_sizes(program).items() if index in axes}
    cases = proof_inputs(inputs, sizes)
    error = prove(original, folded, cases, stage="folding BatchNorm", expected=expected)
    return Prepared(original, folded, moved, inputs, axes, cases, error)


def recapture(module: GraphModule, prepared: Prepared) -> ExportedProgram:
    """Round an edited float64 module to float32 and capture it as a clean program.

    Raises:
        RemovalError: it can no longer keep a size that was dynamic.
    """
    inputs = tuple(value.float() if value.is_floating_point() else value for value in prepared.inputs)
    try:
        return capture(narrowed(module), inputs, prepared.dynamic, settled=True)
    except CaptureError as error:
        raise RemovalError(
            f"the program without its dead channels cannot be captured again: {error.what}",
            where=error.where,
            hint="leave the dynamic axes fixed, or report this model",
        ) from error


def _captured(
    model_or_program: nn.Module | ExportedProgram, example_inputs: Inputs | None, dynamic: Dynamic | None
) -> tuple[ExportedProgram, Inputs, Dynamic]:
    if isinstance(model_or_program, nn.Module):
        if example_inputs is None:
            raise RemovalError(
                "example inputs are needed to capture a module", where="example_inputs", hint="pass a tuple of tensors"
            )
        program = capture(model_or_program, example_inputs, dynamic)
        return program, _on_cpu(program.example_inputs[0]), dynamic or {}
    program = model_or_program
    if not isinstance(program, ExportedProgram):
        raise RemovalError(
            f"expected a torch.nn.Module or an ExportedProgram, got {type(program).__name__}",
            where="model",
            hint="pass the model itself",
        )
    carried, keywords = program.example_inputs or ((), {})
    if keywords:
        raise RemovalError(
            f"the program takes keyword inputs ({', '.join(keywords)})", hint="capture it with positional inputs"
        )
    inputs = example_inputs if example_inputs is not None else tuple(carried)
    _check_fit(inputs, program)
    return program, _on_cpu(inputs), dynamic if dynamic is not None else dynamic_axes(program)


def _check_fit(inputs: Inputs, program: ExportedProgram) -> None:
    """Refuse inputs that the program was not captured for, before they fail somewhere inside it."""
    expected = input_values(program)
    if not isinstance(inputs, tuple | list) or len(inputs) != len(expected):
        number = f"{len(inputs)} were" if isinstance(inputs, tuple | list) else f"a {type(inputs).__name__} was"
        raise RemovalError(
            f"the program takes {len(expected)} example inputs, {number} given",
            where="example_inputs",
            hint="pass a tuple with one tensor for each input of the program",
        )
    for index, (given, wanted) in enumerate(zip(inputs, expected, strict=True)):
        if not isinstance(given, Tensor) or not _fits(given, wanted):
            told = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise RemovalError(
                f"example input {index} is {told}, the program was captured for {wanted.dtype} {tuple(wanted.shape)}",
                where=f"example_inputs[{index}]",
                hint="pass inputs like those of the capture, or capture the model again",
            )


def _fits(given: Tensor, wanted: Tensor) -> bool:
    if given.dim() != wanted.dim() or given.is_floating_point() != wanted.is_floating_point():
        return False
    sizes = zip(given.shape, wanted.shape, strict=True)
    return all(have == size for have, size in sizes if isinstance(size, int))


def _on_cpu(inputs: Iterable[Tensor]) -> Inputs:
    return tuple(value.detach().cpu() for value in inputs)


def _require_finite(module: GraphModule) -> None:
    """Raise on NaN and Inf in weights and statistics: 0 x Inf is not 0, so nothing could be folded or dropped exactly.

    Other buffers may hold them, as attention masks do.
    """
    for name, node in used_tensors(module).items():
        tensor = tensor_of(module, name)
        if not tensor.is_floating_point():
            continue
        if isinstance(tensor, nn.Parameter) or any(operator(user) in LAYERS | {BATCH_NORM} for user in node.users):
            count = int((~torch.isfinite(tensor)).sum())
            if count:
                told = f"{count} of {tensor.numel()} values are NaN or infinite"
                raise _broken(name, f"{told}; a zero beside them cannot be dropped exactly")
    for norm in module.graph.nodes:
        if norm.op == "call_function" and operator(norm) is BATCH_NORM:
            name = str(argument(norm, "running_var").target)
            count = int((tensor_of(module, name) + argument(norm, "eps") <= 0).sum())
            if count:
                raise _broken(name, f"{count} variances are not positive, so that their channels are NaN")


def _broken(name: str, what: str) -> RemovalError:
    return RemovalError(what, where=name, hint="train from the last good checkpoint, or repair this tensor")
