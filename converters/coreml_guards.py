"""Refuses what coremltools would convert to a different function without a word.

Each rule is a fault of coremltools 9.0 on the torch.export path. tests/converters/test_coreml_guards.py
converts every one of them without the guard: a test that starts to fail means that upstream repaired it
and the rule can go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdp_export.errors import ConversionError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node


@dataclass(frozen=True)
class Fault:
    """An operator (without overload), the calls that go wrong, what goes wrong, and what to write instead."""

    operator: str
    applies: Callable[[Node], bool]
    what: str
    hint: str


def _given(position: int | None, name: str, default: Any) -> Callable[[Node], bool]:
    """Return a test: is the argument `name` (or at `position`) given, with another value than `default`?"""

    def differs(node: Node) -> bool:
        positional = position is not None and len(node.args) > position
        value = node.args[position] if positional and position is not None else node.kwargs.get(name, default)
        return bool(value != default)

    return differs


_SCALED = ("the factor alpha is dropped", "write x + alpha * y as a product and a sum")

FAULTS = (
    Fault(
        "gelu",
        _given(None, "approximate", "none"),
        "the tanh form of GELU becomes the exact one (wrong by about 5e-4 per activation)",
        "use nn.GELU() or write the tanh form out by hand",
    ),
    Fault("add", _given(None, "alpha", 1), *_SCALED),
    Fault("sub", _given(None, "alpha", 1), *_SCALED),
    Fault("rsub", _given(2, "alpha", 1), *_SCALED),
    Fault(
        "softplus",
        _given(2, "threshold", 20),
        "the threshold of softplus is dropped",
        "use the default threshold of 20, or write the branch with torch.where",
    ),
    Fault(
        "_upsample_bilinear2d_aa",
        lambda _node: True,
        "interpolation with antialias=True becomes plain bilinear interpolation",
        "use antialias=False, or average pooling",
    ),
)


def refuse_silent_faults(program: ExportedProgram) -> None:
    """Raise ConversionError for the first call that coremltools would convert to something else."""
    for node in program.graph.nodes:
        for fault in FAULTS:
            if operator_name(node) == fault.operator and fault.applies(node):
                raise ConversionError(
                    f"coremltools converts this {fault.operator} to another function: {fault.what}",
                    where=layer_of(node),
                    hint=fault.hint,
                )


def worked_around(program: ExportedProgram) -> ExportedProgram:
    """Return the program with operators that coremltools does not know spelled by ones that it does.

    For the attention masks of Hugging Face's encoders: ``new_ones`` and ``new_zeros`` become ``full``, ``&`` of truths
    becomes ``logical_and``.
    """
    import torch

    def filled(value: int) -> Callable[..., Any]:
        return lambda x, size, *, dtype=None, **_: torch.full(size, value, dtype=dtype or x.dtype)

    def both(x: Tensor, y: Tensor) -> Tensor:
        truths = x.dtype is torch.bool and y.dtype is torch.bool
        return torch.logical_and(x, y) if truths else torch.bitwise_and(x, y)

    aten = torch.ops.aten
    table = {
        aten.new_ones.default: filled(1),
        aten.new_zeros.default: filled(0),
        getattr(aten, "__and__").Tensor: both,  # noqa: B009  the plain name would be mangled
    }
    if not any(node.target in table for node in program.graph.nodes):
        return program
    rewritten: ExportedProgram = program.run_decompositions(table)
    return rewritten


def refuse_non_finite(program: ExportedProgram, *, trained: bool = True) -> None:
    """Raise ConversionError for a weight that is NaN or infinite; `trained=False` leaves the parameters out.

    A finite weight beyond the range of fp16 is no error: coremltools keeps its layer in fp32.
    """
    unknown = set() if trained else set(program.graph_signature.parameters)
    for name, tensor in read_tensors(program):
        if name not in unknown and tensor.is_floating_point() and not bool(tensor.detach().isfinite().all()):
            raise ConversionError(
                "a weight holds NaN or infinite values", where=name, hint="train from the last good checkpoint"
            )


def read_tensors(program: ExportedProgram) -> list[tuple[str, Tensor]]:
    """Return the parameters, buffers and constants that the program reads, with their full names."""
    import torch

    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    targets = {spec.target for spec in program.graph_signature.input_specs if spec.arg.name in read}
    tensors = {**program.constants, **dict(program.named_buffers()), **dict(program.named_parameters())}
    return [(name, value) for name, value in tensors.items() if name in targets and isinstance(value, torch.Tensor)]


def operator_name(node: Node) -> str:
    """Return the operator without namespace and overload: ``conv2d`` for ``aten.conv2d.default``."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).rpartition("::")[2] if schema is not None else node.name


def layer_of(node: Node) -> str:
    """Return the module that made this node ("features.0.0"), or the node's own name."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return f"{paths[-1]} ({node.name})" if paths else str(node.name)
