"""Sizes that may change: how torch.export is told of them, which a captured program has, and which it accepts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from pdp_export.graph.nodes import is_fixed

Dynamic = Mapping[int, Mapping[int, str]]
"""Index of an input -> axis -> name of the dynamic size."""

_FIRST_MINIMUM = 4
_TOO_SMALL = re.compile(r"^  - Not all values of (\w+) = .* != [01]\.$", re.MULTILINE)
"""How torch says that an axis must not shrink to one value inside the model."""


def export(model: nn.Module, inputs: tuple[Tensor, ...], dynamic: Dynamic) -> ExportedProgram:
    """Export; where the model only narrows the range of a dynamic size, accept the range that it needs.

    That is the range which torch suggests (an even size), or the smallest power of two, up to the size of the
    inputs, below which some axis inside the model would shrink to one value.
    """
    if not dynamic:
        return torch.export.export(model, inputs)
    least: dict[str, int] = {}
    while True:
        shapes = _torch_form(model, len(inputs), dynamic, least)
        try:
            return torch.export.export(model, inputs, dynamic_shapes=shapes)
        except UserError as error:
            found = set(_TOO_SMALL.findall(str(error)))
            if not found and "Suggested fixes:" in str(error):
                return torch.export.export(model, inputs, dynamic_shapes=_refined(error, shapes))
            least |= {name: 2 * least.get(name, _FIRST_MINIMUM // 2) for name in found}
            if not found or any(least[name] > _size(inputs, dynamic, name) for name in found):
                raise


def dynamic_axes(program: ExportedProgram) -> dict[int, dict[int, str]]:
    """Return the dynamic axes of the user inputs, in the form that `capture` takes; names follow torch's symbols."""
    axes: dict[int, dict[int, str]] = {}
    for index, value in enumerate(input_values(program)):
        named = {
            axis: "_".join(["size", *re.findall(r"\w+", str(size))])  # twice a symbol gets a name of its own
            for axis, size in enumerate(value.shape)
            if not isinstance(size, int)
        }
        if named:
            axes[index] = named
    return axes


def other_sizes(program: ExportedProgram) -> dict[int, dict[int, int]]:
    """Return a second size for each dynamic axis, by input and axis: that of all symbols grown by one.

    So axes that depend on each other still do, an even size stays even, and ranges are kept.
    """
    sizes: dict[int, dict[int, int]] = {}
    for index, value in enumerate(input_values(program)):
        for axis, size in enumerate(value.shape):
            if not is_fixed(size):
                sizes.setdefault(index, {})[axis] = _grown(program, size)
    return sizes


def input_values(program: ExportedProgram) -> list[Tensor]:
    """Return the (fake) tensors of the user inputs, in calling order; they carry shapes and dtypes."""
    names = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def forget_derived_ranges(program: ExportedProgram) -> None:
    """Drop the ranges of expressions (``2*s53``), which follow from those of their symbols; files cannot hold them."""
    for expression in [item for item in program.range_constraints if not item.is_symbol]:
        del program.range_constraints[expression]


def _grown(program: ExportedProgram, size: Any) -> int:
    expression, known = size.node.expr, size.node.shape_env.backed_var_to_val
    values = {}
    for symbol in expression.free_symbols:
        allowed = program.range_constraints.get(symbol)
        larger = int(known[symbol]) + 1
        values[symbol] = larger if allowed is None or larger in allowed else int(known[symbol])
    return int(expression.subs(values))


def _size(inputs: tuple[Tensor, ...], dynamic: Dynamic, name: str) -> int:
    sizes = [inputs[i].shape[axis] for i, axes in dynamic.items() for axis, given in axes.items() if given == name]
    return min(sizes, default=0)


def _torch_form(model: nn.Module, count: int, dynamic: Dynamic, least: Mapping[str, int]) -> tuple[Any, ...]:
    """Return torch's own form: one mapping per parameter of forward(), the ones in ``*args`` nested."""
    dims = {name: Dim(name, min=least.get(name)) for axes in dynamic.values() for name in axes.values()}
    shapes = [{axis: dims[name] for axis, name in dynamic.get(index, {}).items()} for index in range(count)]
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        plain = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*shapes[:plain], tuple(shapes[plain:]))
    return tuple(shapes)


def _refined(error: UserError, shapes: tuple[Any, ...]) -> Any:
    """Return the shapes with the fixes that torch suggests; a suggestion to fix a size is no fix."""
    before, _, after = str(error).partition("Suggested fixes:")
    fixes = after.strip().split("\n\n")[0]
    refined = refine_dynamic_shapes_from_suggested_fixes(f"{before}Suggested fixes:\n{fixes}", shapes)
    if any(isinstance(size, int | None) for size in pytree.tree_leaves(refined)):
        raise error
    return refined
