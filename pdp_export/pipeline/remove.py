"""Stage 5: dead channels leave the network, BatchNorm is folded, the function stays."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from pdp_export.converters import registry
from pdp_export.costs import measured
from pdp_export.graph.archive import save_program
from pdp_export.graph.counting import count
from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.outputs import DENSE_PROGRAM, PRUNED_PROGRAM, WEIGHTS
from pdp_export.pipeline.removal_api import by_measuring
from pdp_export.removal import Removed, remove_channels, simplify
from pdp_export.removal.records import RemovalReport
from pdp_export.tasks.objective import example_inputs


def run(context: Context, output: Path) -> Outcome:
    """Write ``model.pt2``, ``dense.pt2`` and ``removal.json``; both programs are proven equal in fp64."""
    recipe = context.recipe
    inputs = example_inputs(recipe, context.capture_batch)
    dense = simplify(context.model(context.output_of("train-dense") / WEIGHTS), inputs, context.dynamic)
    save_program(dense, output / DENSE_PROGRAM)
    hardened = context.model(context.output_of("harden") / WEIGHTS)
    removed = _removed(context, hardened, inputs)
    save_program(removed.program, output / PRUNED_PROGRAM)
    before, after = count(dense), count(removed.program)
    write_json(
        output / "removal.json",
        {
            "before": {"macs": before.macs, "params": before.parameters, "nonzero": before.nonzero},
            "after": {"macs": after.macs, "params": after.parameters, "nonzero": after.nonzero},
            "report": removed.report.model_dump(mode="json"),
        },
    )
    return Outcome(
        summary=f"{removed.report.summary}, proof {removed.report.proof_error:.0e}",
        figures={
            "params_before": before.parameters, "params_after": after.parameters,
            "macs_before": before.macs, "macs_after": after.macs, "proof_error": removed.report.proof_error,
        },
        warnings=_warnings(context, removed.report),
    )  # fmt: skip


def _removed(context: Context, model: nn.Module, inputs: tuple[Tensor, ...]) -> Removed:
    recipe, dynamic = context.recipe, context.dynamic
    own = recipe.pruning.align if recipe.pruning.pattern == "channel" else None
    if recipe.removal.measure is not None:
        layers = measured("onnxruntime", threads=recipe.benchmark.threads, align=own)
        costs, judge = by_measuring(layers)
        return remove_channels(model, inputs, dynamic=dynamic, costs=costs, judge=judge)
    align = _preferred_alignment(context) if own is None else own
    return remove_channels(model, inputs, dynamic=dynamic, align=align, objective=recipe.removal.objective)


def _warnings(context: Context, report: RemovalReport) -> tuple[str, ...]:
    """A channel pattern that removed nothing is worth a word; an unstructured one rarely removes any."""
    if context.recipe.pruning.pattern == "channel" and report.nothing_removed:
        return (f"no channel was removed: {report.nothing_removed}",)
    return ()


def _preferred_alignment(context: Context) -> int:
    """One plan serves all targets here, so the strictest alignment of them counts."""
    return max(registry.load(section.name).TARGET.channel_alignment for section in context.recipe.targets)
