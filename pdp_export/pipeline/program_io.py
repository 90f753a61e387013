"""Reads names and shapes of inputs and outputs from a captured program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.export import ExportedProgram

from pdp_export.errors import DataError, UsageError, first_line
from pdp_export.graph.capture import inference_mode
from pdp_export.pipeline.weights import program_weights
from pdp_export.removal import simplify
from pdp_export.results import TensorSpec

if TYPE_CHECKING:
    from torch import nn

Array = np.ndarray[Any, Any]


def input_specs(program: ExportedProgram, names: Sequence[str] = ()) -> tuple[TensorSpec, ...]:
    """Return the program's inputs; a dynamic axis gets example size 1 and its symbol's name.

    Raises:
        UsageError: when the number of `names` differs from the number of inputs.
    """
    own = program.graph_signature.user_inputs
    chosen = list(names) or [str(name) for name in own]
    if len(chosen) != len(own):
        raise UsageError(f"{len(chosen)} input names for {len(own)} inputs", where="input_names")
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return tuple(_spec(name, values[str(source)]) for name, source in zip(chosen, own, strict=True))


def random_inputs(program: ExportedProgram, samples: int = 8, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return seeded random inputs; a dynamic axis gets `samples`, integer inputs are zeros."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for spec in input_specs(program):
        shape = tuple(samples if axis in spec.dynamic else size for axis, size in enumerate(spec.shape))
        dtype: torch.dtype = getattr(torch, spec.dtype)
        value = (
            torch.randn(shape, generator=generator, dtype=dtype)
            if dtype.is_floating_point
            else torch.zeros(shape, dtype=dtype)
        )
        made.append(value)
    return tuple(made)


def output_names_of(program: ExportedProgram) -> tuple[str, ...]:
    """Return the program's own output names."""
    return tuple(str(name) for name in program.graph_signature.user_outputs)


def as_reference(
    reference: nn.Module | ExportedProgram, inputs: Any, names: Sequence[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return (weights, outputs by name) of a model or program; weights are empty for a plain model.

    Raises:
        UsageError: another number of inputs or outputs; DataError where the reference does not run on the inputs.
    """
    tensors = as_tuple(inputs)
    if isinstance(reference, ExportedProgram):
        _check_inputs(reference, tensors)
        # Converters store weights with BatchNorm folded: compare with the same form.
        reference = simplify(reference, random_inputs(reference))
    module: Any = reference.module() if isinstance(reference, ExportedProgram) else reference
    made = _run(module, tensors)
    values = [made] if isinstance(made, torch.Tensor) else list(made.values() if isinstance(made, Mapping) else made)
    if len(values) != len(names):
        raise UsageError(f"the model gives {len(values)} outputs, the file has {len(names)}", where="reference")
    outputs = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    return (program_weights(reference) if isinstance(reference, ExportedProgram) else {}), outputs


def _check_inputs(program: ExportedProgram, tensors: Sequence[torch.Tensor]) -> None:
    specs = input_specs(program)
    if len(tensors) != len(specs):
        raise UsageError(f"{len(tensors)} inputs given, the program takes {len(specs)}", where="inputs")
    for spec, tensor in zip(specs, tensors, strict=True):
        taken = tuple(spec.dynamic.get(axis, size) for axis, size in enumerate(spec.shape))
        sizes = zip(taken, tensor.shape, strict=False)
        if tensor.dim() != len(taken) or any(size not in (found, str(size)) for size, found in sizes):
            raise DataError(
                f"the program takes shape ({', '.join(map(str, taken))}), the data has {tuple(tensor.shape)}",
                where=f"input {spec.name}",
                hint='give that shape, or capture with sizes that may change: dynamic={0: {0: "batch"}}',
            )
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype != spec.dtype:
            raise DataError(
                f"the program takes {spec.dtype}, the data is {dtype}",
                where=f"input {spec.name}",
                hint="convert the array first",
            )


def _run(module: Any, tensors: tuple[torch.Tensor, ...]) -> Any:
    try:
        with torch.no_grad(), inference_mode(module):
            return module(*tensors)
    except Exception as error:
        raise DataError(
            f"the reference does not run on these inputs: {first_line(error)}",
            where="inputs",
            hint="check shapes and dtypes: reference(*inputs) must run",
        ) from error


def as_tuple(inputs: Any) -> tuple[torch.Tensor, ...]:
    """Return one tensor or several as a tuple of plain tensors."""
    given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    return tuple(tensor.detach() for tensor in given)


def _spec(name: str, value: torch.Tensor) -> TensorSpec:
    dynamic = {axis: str(size) for axis, size in enumerate(value.shape) if not isinstance(size, int)}
    shape = tuple(1 if axis in dynamic else int(size) for axis, size in enumerate(value.shape))
    return TensorSpec(name=name, shape=shape, dtype=str(value.dtype).removeprefix("torch."), dynamic=dynamic)
