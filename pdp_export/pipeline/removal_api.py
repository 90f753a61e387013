"""The public `remove_channels`: where removal meets costs that are measured on the target's runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pdp_export.converters import registry
from pdp_export.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from pdp_export.costs import Measured
    from pdp_export.costs.measured import Runtime
    from pdp_export.graph.capture import Dynamic
    from pdp_export.removal import Removed
    from pdp_export.removal.costs import CostModel, Objective
    from pdp_export.removal.whole_plans import Judge

LAYER_BY_LAYER = "layer by layer"
"""The plan that takes for each layer what was fastest on its own."""

_MEASURED: dict[str, Runtime] = {"onnx": "onnxruntime", "torch": "torch"}


def remove_channels(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[Tensor, ...] | None = None,
    *,
    target: str | None = None,
    dynamic: Dynamic | None = None,
    align: int | None = None,
    objective: Objective = "latency",
    measure: bool = True,
    threads: int = 1,
) -> Removed:
    """Return the same function with every channel gone that contributes nothing, planned for a target.

    The model is left unchanged. Only exact zeros in its weights count, whoever put them there. Where a layer could
    work on fewer channels than its neighbours hold, at the price of a gather, costs decide: for the targets "onnx"
    and "torch" (eager code) each option of each layer is timed on this machine, once, and then the plan that this
    gives side by side with a few others, as whole networks; times are remembered in the user's folder for caches.
    For the other targets they are estimated. The result is proven in float64, and then in the target's
    own runtime in float32, where that runs here; the report says which.

    Args:
        model: A module, or a program that is already captured.
        example_inputs: Positional inputs; may be left out for a program that carries its own.
        target: "onnx", "coreml", "litert" or "mnn", or "torch"; None for a plan that suits none in particular.
        dynamic: Input index -> axis -> name.
        align: Widths are filled with dead channels up to a multiple of this, never beyond the original; by default
            as the target's fastest kernels want them.
        objective: "latency", stored "size", or "macs" alone.
        measure: False to estimate latencies for every target.
        threads: How many threads ONNX Runtime will have; eager code has the number that torch is set to.

    Raises:
        CaptureError: torch.export cannot capture the module.
        RemovalError: a weight is NaN or infinite.
        ProofError: the result differs by more than 1e-12 of max|y| in float64, or 1e-5 in the target's runtime; there
            is no result then.
        ConversionError: the target cannot express the result.
        MissingDependencyError: a package of the target is not installed.
        UsageError: `align` is not positive, or the objective or the target is unknown.
    """
    from pdp_export.removal import remove_channels as remove

    block = _block(target)
    measured = _measured_cost(target, align, threads) if measure and objective == "latency" else None
    if measured is None:
        width = block if align is None else align
        removed = remove(model, example_inputs, target=target, dynamic=dynamic, align=width, objective=objective)
    else:
        costs, judge = by_measuring(measured)
        removed = remove(model, example_inputs, target=target, dynamic=dynamic, costs=costs, judge=judge)
    if target is None:
        return removed
    from pdp_export.pipeline.runtime_proof import prove_in_runtime

    inputs = example_inputs if example_inputs is not None else removed.program.example_inputs[0]
    found = prove_in_runtime(model, removed, tuple(inputs), target)
    return replace(removed, report=removed.report.model_copy(update={"runtime_proof": found}))


def by_measuring(layers: Measured) -> tuple[dict[str, CostModel], Judge]:
    """Return the plans that are worth comparing where layers are measured, and what compares them."""
    from pdp_export.pipeline.plan_times import PlanTimes, rivals

    return {LAYER_BY_LAYER: layers, **rivals(layers)}, PlanTimes(layers)


def _block(target: str | None) -> int:
    """Return the widths that the target's kernels want."""
    if target is None:
        return 1
    if target in _MEASURED:
        from pdp_export.costs.measured import preferred_block

        return preferred_block(_MEASURED[target])
    if target not in registry.MODULES:
        known = ", ".join(sorted({*registry.MODULES, *_MEASURED}))
        raise UsageError(f"unknown target {target!r}", where="target", hint=f"use one of: {known}")
    return registry.load(target).TARGET.channel_alignment


def _measured_cost(target: str | None, align: int | None, threads: int) -> Measured | None:
    if target not in _MEASURED:
        return None
    import torch

    from pdp_export.costs.measured import measured

    number = torch.get_num_threads() if target == "torch" else threads
    return measured(_MEASURED[target], threads=number, align=align)
