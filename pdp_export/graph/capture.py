"""Captures a module as one functional program: the dialect that every later stage reads and rewrites.

The dialect is ``torch.export.export(model.eval(), inputs).run_decompositions({})``: no mutation, no
aliases, while convolution, linear, layer norm and attention stay whole.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from pdp_export.errors import CaptureError, PdpExportError
from pdp_export.tasks.user_source import user_line

Dynamic = Mapping[int, Mapping[int, str]]
"""Index of an input -> axis -> name of the dynamic size."""


def capture(model: nn.Module, example_inputs: tuple[Tensor, ...], dynamic: Dynamic | None = None) -> ExportedProgram:
    """Capture `model` in inference mode. The model's parameters and its train/eval mode are left as they are.

    Args:
        model: Any module that torch.export can trace; a GraphModule from an earlier capture works too.
        example_inputs: Positional inputs. A dynamic axis of size 1 is traced at 2, since torch
            specialises sizes 0 and 1.
        dynamic: Which axes may change, by input index; equal names are equal sizes. A smallest size that
            the model itself needs (an image of at least 4, say) is found and kept as the range.

    Returns:
        The program. Source lines of the traced machine are not part of it, so that it can travel.

    Raises:
        CaptureError: with the user's own source line as `where`.
    """
    _check_inputs(model, example_inputs, dynamic or {})
    inputs = tuple(_at_least_two(value, (dynamic or {}).get(index, {})) for index, value in enumerate(example_inputs))
    with _inference_mode(model), quiet_export():
        try:
            raw = _export(model, inputs, _dynamic_shapes(model, len(inputs), dynamic))
            program: ExportedProgram = raw.run_decompositions({})
        except PdpExportError:
            raise
        except Exception as error:
            raise _capture_error(error) from error
    _forget_source_lines(program)
    return program


def dynamic_axes(program: ExportedProgram) -> dict[int, dict[int, str]]:
    """Return the dynamic axes of the user inputs, in the form that `capture` takes; names follow torch's symbols."""
    axes: dict[int, dict[int, str]] = {}
    for index, value in enumerate(input_values(program)):
        named = {axis: str(size) for axis, size in enumerate(value.shape) if not isinstance(size, int)}
        if named:
            axes[index] = named
    return axes


def input_values(program: ExportedProgram) -> list[Tensor]:
    """Return the (fake) tensors of the user inputs, in calling order; they carry shapes and dtypes."""
    names = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


@contextmanager
def quiet_export() -> Iterator[None]:
    """Silence what torch.export says about torch's own code; nobody who calls us can act on it."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        # torch copies its own tree specs in a way that it has deprecated itself (2.13).
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
        # torch.nn.LSTM and GRU keep a second list of their own weights, which export takes for a change of state.
        warnings.filterwarnings("ignore", message=r"The tensor attributes? .*_flat_weights", category=UserWarning)
        # On a failure torch logs and prints pages about its internals; what matters is in the exception.
        logging.disable(logging.CRITICAL)
        try:
            with redirect_stderr(StringIO()):
                yield
        finally:
            logging.disable(before)


def _check_inputs(model: nn.Module, inputs: tuple[Tensor, ...], dynamic: Dynamic) -> None:
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected a torch.nn.Module, got {type(model).__name__}", hint="pass the model itself")
    for index, value in enumerate(inputs):
        if not isinstance(value, Tensor):
            raise CaptureError(
                f"example input {index} is a {type(value).__name__}, not a tensor",
                where=f"example_inputs[{index}]",
                hint="pass a tuple of tensors, in the order of forward()",
            )
    for index, axes in dynamic.items():
        for axis in axes:
            if not (0 <= index < len(inputs) and 0 <= axis < inputs[index].dim()):
                raise CaptureError(
                    f"there is no axis {axis} of input {index} that could be dynamic",
                    where=f"dynamic[{index}][{axis}]",
                    hint=f"the model gets {len(inputs)} inputs; axes count from 0",
                )


def _at_least_two(value: Tensor, axes: Mapping[int, str]) -> Tensor:
    for axis in axes:
        if value.shape[axis] == 1:
            value = torch.cat([value, value], dim=axis)
    return value


def _export(model: nn.Module, inputs: tuple[Tensor, ...], shapes: tuple[Any, ...] | None) -> ExportedProgram:
    """Export; where the model only narrows the range of a dynamic size, accept the range that torch suggests."""
    try:
        return torch.export.export(model, inputs, dynamic_shapes=shapes)
    except UserError as error:
        if shapes is None or "Suggested fixes:" not in str(error):
            raise
        before, _, after = str(error).partition("Suggested fixes:")
        fixes = after.strip().split("\n\n")[0]
        refined = refine_dynamic_shapes_from_suggested_fixes(f"{before}Suggested fixes:\n{fixes}", shapes)
        if any(isinstance(size, int | None) for size in pytree.tree_leaves(refined)):
            raise
        return torch.export.export(model, inputs, dynamic_shapes=refined)


def _dynamic_shapes(model: nn.Module, count: int, dynamic: Dynamic | None) -> tuple[Any, ...] | None:
    """Return torch's own form: one mapping per parameter of forward(), the ones in ``*args`` nested."""
    if not dynamic:
        return None
    dims = {name: Dim(name) for axes in dynamic.values() for name in axes.values()}
    shapes = [{axis: dims[name] for axis, name in dynamic.get(index, {}).items()} for index in range(count)]
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        plain = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*shapes[:plain], tuple(shapes[plain:]))
    return tuple(shapes)


@contextmanager
def _inference_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode and give every submodule its own mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    if isinstance(model, torch.fx.GraphModule):
        # A captured module refuses train() and eval(): its mode is part of the program.
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train(modes[model])
        for module, mode in modes.items():
            module.training = mode


def _capture_error(error: Exception) -> CaptureError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    hint = "make forward() free of branches on tensor values; see torch.cond in the documentation of torch.export"
    if lines[0].startswith("Constraints violated"):
        # The first line only points to an environment variable; the reasons follow as a list.
        lines = [line[2:].split(" If you're")[0] for line in lines if line.startswith("- ")] or lines
        hint = "leave this axis fixed, or remove the line that fixes its size"
    return CaptureError(f"torch.export cannot capture the model: {lines[0]}", where=user_line(error), hint=hint)


def _forget_source_lines(program: ExportedProgram) -> None:
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
