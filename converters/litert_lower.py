"""Runs litert-torch on a captured program: quietly, with fixed shapes and flat inputs and outputs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils import _pytree as pytree

from pdp_export.errors import ConversionError
from pdp_export.results import TensorSpec

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_log = logging.getLogger(__name__)
_QUIET = {"LITERT_TORCH_SHOW_PROGRESS": "n"}


class FlatProgram(torch.nn.Module):
    """A captured program as a module that maps flat tensors to a flat tuple of tensors."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.structure = program.call_spec.in_spec

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program; inputs and outputs are in the order of its signature."""
        positional, keyword = pytree.tree_unflatten(list(inputs), self.structure)
        return tuple(pytree.tree_leaves(self.program(*positional, **keyword)))


def lower(program: ExportedProgram, inputs: Sequence[TensorSpec], channel_last: Sequence[int]) -> bytes:
    """Return the .tflite bytes litert-torch makes of `program`, with the shapes in `inputs` fixed.

    The inputs whose positions are in `channel_last` are taken as (N, H, W, C).

    Raises:
        ConversionError: naming the operator that LiteRT cannot express, or the mismatch of inputs.
    """
    _check_inputs(program, inputs)
    with _quiet():
        import litert_torch

        module = litert_torch.to_channel_last_io(FlatProgram(program), list(channel_last))
        # A captured program is always in inference mode; only the flag of the wrapper is missing.
        module.training = False
        examples = tuple(_example(spec, last=index in channel_last) for index, spec in enumerate(inputs))
        try:
            return bytes(litert_torch.convert(module, examples).model_content())
        except Exception as error:
            raise _refusal(error) from error


def _check_inputs(program: ExportedProgram, inputs: Sequence[TensorSpec]) -> None:
    expected = len(program.graph_signature.user_inputs)
    if expected != len(inputs):
        raise ConversionError(
            f"the program has {expected} inputs, {len(inputs)} are specified",
            where=", ".join(spec.name for spec in inputs),
            hint="give one input specification for every tensor the model takes",
        )


def _example(spec: TensorSpec, *, last: bool) -> torch.Tensor:
    example = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
    return example.permute(0, 2, 3, 1).contiguous() if last else example


def _refusal(error: Exception) -> ConversionError:
    text = str(error).strip() or type(error).__name__
    missing = re.search(r"Lowering not found: (\S+)", text)
    if missing:
        return ConversionError(
            f"LiteRT has no operator for {missing[1]}",
            where=missing[1],
            hint="write this part of the model with other operators, or leave the target litert out",
        )
    return ConversionError(
        f"litert-torch cannot convert the model: {text.splitlines()[0]}",
        where="targets: litert",
        hint="run with --debug for the converter's full message",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's progress, warnings and log lines off the console; log its text at debug level."""
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    text = io.StringIO()
    # Without any handler the first logging.warning() of a library would install one that prints.
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        with contextlib.redirect_stdout(text), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(silent)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        if text.getvalue():
            _log.debug("litert-torch: %s", text.getvalue())
