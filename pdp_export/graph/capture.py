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

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pdp_export.errors import CaptureError, PdpExportError
from pdp_export.graph.dynamic_sizes import Dynamic, dynamic_axes, export, forget_derived_ranges, input_values
from pdp_export.tasks.user_source import user_line

__all__ = ["Dynamic", "capture", "dynamic_axes", "inference_mode", "input_values", "quiet_export"]


def capture(
    model: nn.Module, example_inputs: tuple[Tensor, ...], dynamic: Dynamic | None = None, *, settled: bool = False
) -> ExportedProgram:
    """Capture `model` in inference mode. The model's parameters and its train/eval mode are left as they are.

    Args:
        model: Any module that torch.export can trace; a GraphModule from an earlier capture works too.
        example_inputs: Positional inputs. A dynamic axis of size 1 is traced at 2, since torch
            specialises sizes 0 and 1.
        dynamic: Which axes may change, by input index; equal names are equal sizes. A smallest size that
            the model itself needs (an image of at least 4, say) is found and kept as the range.
        settled: The model is an edited capture, so that all it calls is in the dialect already; this takes a third of
            the time.

    Returns:
        The program. Source lines of the traced machine are not part of it, so that it can travel.

    Raises:
        CaptureError: with the user's own source line as `where`.
    """
    _check_inputs(model, example_inputs, dynamic or {})
    inputs = tuple(_at_least_two(value, (dynamic or {}).get(index, {})) for index, value in enumerate(example_inputs))
    with inference_mode(model), quiet_export():
        try:
            raw = export(model, inputs, dynamic or {})
            program = _rebuilt(raw) if settled else raw.run_decompositions({})
        except PdpExportError:
            raise
        except Exception as error:
            raise _capture_error(error) from error
    _forget_source_lines(program)
    forget_derived_ranges(program)
    return program


def _rebuilt(raw: ExportedProgram) -> ExportedProgram:
    """Return an exported program whose operators need no decomposition as what decomposition would return."""
    raw.graph.eliminate_dead_code()
    return ExportedProgram(
        raw.graph_module, raw.graph, raw.graph_signature, raw.state_dict, raw.range_constraints,
        raw.module_call_graph, raw.example_inputs, raw.constants,
    )  # fmt: skip


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
    if not isinstance(inputs, tuple | list):
        raise CaptureError(
            f"the example inputs are a {type(inputs).__name__}, not a tuple of tensors",
            where="example_inputs",
            hint="pass a tuple, (x,) for a single input",
        )
    for index, value in enumerate(inputs):
        if not isinstance(value, Tensor):
            raise CaptureError(
                f"example input {index} is a {type(value).__name__}, not a tensor",
                where=f"example_inputs[{index}]",
                hint="pass a tuple of tensors, in the order of forward()",
            )
    _check_number(model, inputs)
    for index, axes in dynamic.items():
        for axis in axes:
            if not (0 <= index < len(inputs) and 0 <= axis < inputs[index].dim()):
                raise CaptureError(
                    f"there is no axis {axis} of input {index} that could be dynamic",
                    where=f"dynamic[{index}][{axis}]",
                    hint=f"the model gets {len(inputs)} inputs; axes count from 0",
                )


def _check_number(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*inputs)
    except TypeError as error:
        raise CaptureError(
            f"{len(inputs)} example inputs do not fit forward{signature}: {error}",
            where="example_inputs",
            hint="pass one tensor for each parameter of forward(), in its order",
        ) from error


def _at_least_two(value: Tensor, axes: Mapping[int, str]) -> Tensor:
    for axis in axes:
        if value.shape[axis] == 1:
            value = torch.cat([value, value], dim=axis)
    return value


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
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
    hint = "check that model(*example_inputs) runs; torch.export follows forward() once, on these inputs"
    if "data-dependent" in str(error):
        lines = [f"forward() decides by the values of a tensor ({lines[0]})"]
        hint = "compute both sides and choose by torch.where, or see torch.cond in the documentation of torch.export"
    elif lines[0].startswith("Constraints violated"):
        # The first line only points to an environment variable; the reasons follow as a list.
        lines = [line[2:].split(" If you're")[0] for line in lines if line.startswith("- ")] or lines
        hint = "leave this axis fixed, or remove the line that fixes its size"
    return CaptureError(f"torch.export cannot capture the model: {lines[0]}", where=user_line(error), hint=hint)


def _forget_source_lines(program: ExportedProgram) -> None:
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
