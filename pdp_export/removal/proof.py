"""Proves that a rewritten program computes the same function as the original, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from pdp_export.errors import ProofError
from pdp_export.graph.nodes import layer_of, operator_name

LIMIT = 1e-12
"""Largest difference allowed, relative to max|y| of each output."""

Inputs = tuple[Tensor, ...]
Expected = Callable[[Node, Mapping[str, Tensor]], Tensor | None]
"""From a node of the new graph and all values of the old one: the value that node should have, if any."""


def proof_inputs(example_inputs: Inputs, sizes: Mapping[int, Mapping[int, int]]) -> list[Inputs]:
    """Return the inputs to prove on: the example and random ones, each at two sizes if any size is dynamic.

    Floating inputs become float64. Random integers and booleans are values of the example in another
    order, since an embedding or a mask accepts only some.

    Args:
        example_inputs: Positional inputs.
        sizes: The second size of every dynamic axis, by input and axis.
    """
    cases = [tuple(value.double() if value.is_floating_point() else value for value in example_inputs)]
    generator = torch.Generator().manual_seed(0)
    cases.append(tuple(_random_like(value, generator) for value in cases[0]))
    if sizes:
        cases += [tuple(_resized(value, sizes.get(i, {})) for i, value in enumerate(case)) for case in list(cases)]
    return cases


def prove(
    before: GraphModule, after: GraphModule, cases: Iterable[Inputs], *, stage: str, expected: Expected | None = None
) -> float:
    """Compare the outputs of two modules on every case and return the largest relative difference.

    Args:
        before: The original in float64.
        after: The rewritten one in float64.
        cases: Inputs of both.
        stage: What was done, for the message.
        expected: What each node of `after` should compute; names the first node that differs.

    Raises:
        ProofError: when an output differs by more than `LIMIT`; `where` is that node.
    """
    worst = 0.0
    for inputs in cases:
        with torch.no_grad():
            difference = _largest(before(*inputs), _run(after, inputs, stage))
        worst = max(worst, difference)
        if not difference <= LIMIT:
            raise ProofError(
                f"{stage} changed the function: outputs differ by {difference:.1e} of max|y|, allowed are {LIMIT:.0e}",
                where=_first_difference(before, after, inputs, expected) if expected else None,
                hint="no result was written; please report this model as a bug",
            )
    return worst


def _run(module: GraphModule, inputs: Inputs, stage: str) -> Any:
    try:
        return module(*inputs)
    except Exception as error:
        raise ProofError(
            f"{stage} made a program that does not run: {next(iter(str(error).splitlines()), '')}",
            hint="no result was written; please report this model as a bug",
        ) from error


def relative_difference(old: Tensor, new: Tensor) -> float:
    """Return max|old - new| / max|old|; equal NaN and Inf count as equal, different shapes as infinite."""
    old, new = old.detach(), new.detach()
    if old.shape != new.shape:
        return float("inf")
    if old.numel() == 0 or torch.equal(old, new):
        return 0.0
    if not old.is_floating_point():
        return float("inf")
    finite = old.isfinite()
    if not torch.equal(finite, new.isfinite()) or not _equal_where(~finite, old, new):
        return float("inf")
    difference = float((old - new)[finite].abs().max()) if finite.any() else 0.0
    scale = float(old[finite].abs().max()) if finite.any() else 1.0
    return difference / scale if scale > 0 else float("inf")


def _equal_where(mask: Tensor, old: Tensor, new: Tensor) -> bool:
    return bool(torch.allclose(old[mask], new[mask], equal_nan=True))


def _largest(old: Any, new: Any) -> float:
    pairs = zip(pytree.tree_leaves(old), pytree.tree_leaves(new), strict=True)
    return max((relative_difference(a, b) for a, b in pairs if isinstance(a, Tensor)), default=0.0)


def _random_like(value: Tensor, generator: torch.Generator) -> Tensor:
    if value.is_floating_point():
        finite = value[value.isfinite()]
        spread = finite.std(correction=0).clamp_min(1.0) if finite.numel() else 1.0
        drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype) * spread
        return torch.where(value.isfinite(), drawn, value)  # a mask of attention keeps its infinities
    order = torch.randperm(value.numel(), generator=generator)
    return value.flatten()[order].view(value.shape)


def _resized(value: Tensor, sizes: Mapping[int, int]) -> Tensor:
    """Return the value with other sizes along these axes, filled from its beginning."""
    for axis, size in sizes.items():
        value = value.index_select(axis, torch.arange(size) % value.shape[axis])
    return value


class _Recorder(Interpreter):
    """Runs a module and keeps the value of every node that is a tensor."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Tensor] = {}
        self.order: list[Node] = []

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result
            self.order.append(n)
        return result


def _first_difference(before: GraphModule, after: GraphModule, inputs: Inputs, expected: Expected) -> str | None:
    old, new = _Recorder(before), _Recorder(after)
    with torch.no_grad():
        old.run(*inputs)
        new.run(*inputs)
    for node in new.order:
        wanted = expected(node, old.values) if node.op == "call_function" else None
        if wanted is not None and not relative_difference(wanted, new.values[node.name]) <= LIMIT:
            return f"{node.name} ({operator_name(node)} in {layer_of(node)})"
    return None
