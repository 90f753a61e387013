"""Stage 4: masks become exact zeros; the soft-versus-hard gap is measured, not assumed."""

from __future__ import annotations

from pathlib import Path

from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.outputs import WEIGHTS
from pdp_export.pipeline.pruner_state import load_soft
from pdp_export.pruning.pruner import Pruner
from pdp_export.tasks.model import save_weights
from pdp_export.tasks.objective import example_inputs


def run(context: Context, output: Path) -> Outcome:
    """Write ``model.safetensors`` with exact zeros and ``harden.json``."""
    recipe = context.recipe
    # Channel groups depend on the weights: attach to the very ones that pruning started from.
    model = context.model(context.output_of("train-dense") / WEIGHTS)
    inputs = example_inputs(recipe, context.capture_batch)
    pruner = Pruner.from_section(model, recipe.pruning, inputs, context.dynamic)
    load_soft(model, pruner, context.output_of("prune"))
    soft = context.evaluate(model)
    hardened = pruner.harden()
    hard = context.evaluate(model)
    save_weights(model, output / WEIGHTS)
    write_json(
        output / "harden.json",
        {"pruning": hardened.model_dump(mode="json"), "soft": soft, "hard": hard, "n": context.validation_size},
    )
    return Outcome(
        summary=f"{hardened.sparsity:.2%} zeros in {len(hardened.masks)} masked tensors or groups, "
        f"soft {soft:.4f} -> hard {hard:.4f}",
        figures={"pruned_share": hardened.asked, "zeros": hardened.sparsity, "soft": soft, "hard": hard},
        warnings=hardened.warnings,
    )
