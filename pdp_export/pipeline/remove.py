"""Stage 5: dead channels leave the network, BatchNorm is folded, the function stays."""

from __future__ import annotations

from pathlib import Path

from pdp_export.converters import registry
from pdp_export.graph.archive import save_program
from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.outputs import DENSE_PROGRAM, PRUNED_PROGRAM, WEIGHTS
from pdp_export.removal import remove_channels, simplify
from pdp_export.tasks.objective import example_inputs


def run(context: Context, output: Path) -> Outcome:
    """Write ``model.pt2``, ``dense.pt2`` and ``removal.json``; both programs are proven equal in fp64."""
    recipe = context.recipe
    inputs = example_inputs(recipe, context.capture_batch)
    dense = simplify(context.model(context.output_of("train-dense") / WEIGHTS), inputs, context.dynamic)
    save_program(dense, output / DENSE_PROGRAM)
    hardened = context.model(context.output_of("harden") / WEIGHTS)
    align = recipe.pruning.align if recipe.pruning.pattern == "channel" else _preferred_alignment(context)
    removed = remove_channels(hardened, inputs, dynamic=context.dynamic, align=align)
    save_program(removed.program, output / PRUNED_PROGRAM)
    report = removed.report
    write_json(output / "removal.json", report.model_dump(mode="json"))
    return Outcome(
        summary=f"{report.params_before / 1e6:.2f} -> {report.params_after / 1e6:.2f} M params, "
        f"{report.macs_before / 1e6:.1f} -> {report.macs_after / 1e6:.1f} M MACs, proof {report.proof_error:.0e}",
        figures={
            "params_before": report.params_before, "params_after": report.params_after,
            "macs_before": report.macs_before, "macs_after": report.macs_after, "proof_error": report.proof_error,
        },
    )  # fmt: skip


def _preferred_alignment(context: Context) -> int:
    """One plan serves all targets here, so the strictest alignment of them counts."""
    return max(registry.load(section.name).TARGET.channel_alignment for section in context.recipe.targets)
