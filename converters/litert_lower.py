"""Runs litert-torch on a captured program: quietly, with fixed shapes and flat inputs and outputs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch.utils import _pytree as pytree

from pdp_export.errors import ConversionError
from pdp_export.native_output import stdout_to_stderr
from pdp_export.results import TensorSpec

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_PROGRESS = "LITERT_TORCH_SHOW_PROGRESS"


class FlatProgram(torch.nn.Module):
    """A captured program as a module that maps flat tensors to a flat tuple of tensors."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.structure = program.call_spec.in_spec

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program; inputs and outputs are in the order of its signature.

        The program was captured with contiguous inputs, and its views hold for those only.
        """
        positional, keyword = pytree.tree_unflatten([item.contiguous() for item in inputs], self.structure)
        return tuple(pytree.tree_leaves(self.program(*positional, **keyword)))


def lower(
    program: ExportedProgram, inputs: Sequence[TensorSpec], outputs: Sequence[str], channel_last: Sequence[int]
) -> bytes:
    """Return the .tflite bytes litert-torch makes of `program`, with the shapes in `inputs` fixed.

    The inputs whose positions are in `channel_last` are taken as (N, H, W, C).

    Raises:
        ConversionError: naming the operator that LiteRT cannot express, or the wrong number of names.
    """
    check_counts(program, inputs, outputs)
    with quiet():
        import litert_torch

        expressible = program.run_decompositions({torch.ops.aten.conv_transpose2d.input: crop_transposed_convolution})
        module = litert_torch.to_channel_last_io(FlatProgram(expressible), list(channel_last))
        # A captured program is always in inference mode; only the flag of the wrapper is missing.
        module.training = False
        examples = tuple(_example(spec, last=index in channel_last) for index, spec in enumerate(inputs))
        try:
            return bytes(litert_torch.convert(module, examples).model_content())
        except Exception as error:
            raise _refusal(error) from error


def crop_transposed_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    output_padding: Sequence[int] = (0, 0),
    groups: int = 1,
    dilation: Sequence[int] = (1, 1),
) -> torch.Tensor:
    """Write a padded transposed convolution as an unpadded one whose result is cropped.

    TRANSPOSE_CONV knows no padding but SAME, where the output is the input times the stride. The weight (C_in, C_out,
    kH, kW) stays as it is.
    """
    spans = [spread * (size - 1) + 1 for spread, size in zip(dilation, weight.shape[2:], strict=True)]
    same = all(span - step == 2 * pad for span, step, pad in zip(spans, stride, padding, strict=True))
    if not any(output_padding) and (same or not any(padding)):
        return cast(torch.Tensor, NotImplemented)  # torch's word for "leave this one as it is"
    late_bias = any(extra > pad for extra, pad in zip(output_padding, padding, strict=True))
    full = torch.nn.functional.conv_transpose2d(
        x, weight, None if late_bias else bias, tuple(stride), groups=groups, dilation=tuple(dilation)
    )
    borders = [edge for pad, extra in zip(padding, output_padding, strict=True) for edge in (extra - pad, -pad)]
    cropped = torch.nn.functional.pad(full, borders[::-1])
    return cropped + bias.reshape(-1, 1, 1) if late_bias and bias is not None else cropped


def check_counts(program: ExportedProgram, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> None:
    """Raise ConversionError unless every input and output of the program has a name."""
    signature = program.graph_signature
    named = [spec.name for spec in inputs]
    for what, expected, given in (
        ("inputs", signature.user_inputs, named),
        ("outputs", signature.user_outputs, outputs),
    ):
        if len(expected) != len(given):
            raise ConversionError(
                f"the program has {len(expected)} {what}, {len(given)} are named",
                where=", ".join(given),
                hint=f"name every one of the model's {what} once",
            )


def _example(spec: TensorSpec, *, last: bool) -> torch.Tensor:
    example = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
    return example.permute(0, 2, 3, 1).contiguous() if last else example


def _refusal(error: Exception) -> ConversionError:
    text = str(error).strip() or type(error).__name__
    missing = re.search(r"Lowering not found: (\S+)", text) or re.search(r"failed to legalize operation '(\S+)'", text)
    if missing:
        return ConversionError(
            f"LiteRT cannot express {missing[1]} as this model uses it",
            where=_detail(text) or missing[1],
            hint="write this part of the model with other operators, or leave the target litert out",
        )
    return ConversionError(
        f"litert-torch cannot convert the model: {text.splitlines()[0]}",
        where=_detail(text) or "targets: litert",
        hint="run with --debug for the converter's full message",
    )


def _detail(text: str) -> str:
    """Return the operator's attributes and shapes, or its call, from the converter's message; no file names."""
    found = re.search(r"<\{(.{1,300})", text) or re.search(r"While executing .*?target=(.{1,300})", text)
    return found[1] if found else ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the converter's progress and warnings off the console; what it still prints goes to stderr."""
    before = os.environ.get(_PROGRESS)
    os.environ[_PROGRESS] = "n"
    # Without any handler the first logging.warning() of a library would install one that prints.
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        with stdout_to_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(silent)
        if before is None:
            del os.environ[_PROGRESS]
        else:
            os.environ[_PROGRESS] = before
