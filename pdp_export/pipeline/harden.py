"""Stage 4: masks become exact zeros; the soft-versus-hard gap is measured, not assumed."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.dense import WEIGHTS
from pdp_export.pipeline.pruner_state import load_soft
from pdp_export.pruning.from_recipe import build_pruner
from pdp_export.tasks.objective import example_inputs
from pdp_export.training.evaluate import evaluate


def run(context: Context, output: Path) -> Outcome:
    """Write ``model.safetensors`` with exact zeros and ``harden.json``."""
    recipe = context.recipe
    model = context.model()
    pruner = build_pruner(model, recipe.pruning, example_inputs(recipe, context.capture_batch))
    load_soft(model, pruner, context.output_of("prune"))
    soft = evaluate(model, context.data.validation, context.objective)
    hardened = pruner.harden()
    hard = evaluate(model, context.data.validation, context.objective)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, output / WEIGHTS)
    report = hardened.model_dump(mode="json")
    write_json(output / "harden.json", {**report, "soft": soft.value, "hard": hard.value, "n": soft.n})
    return Outcome(
        summary=f"{hardened.achieved:.2%} zeros (asked {hardened.asked:.2%}), "
        f"soft {soft.value:.4f} -> hard {hard.value:.4f}",
        figures={"asked": hardened.asked, "achieved": hardened.achieved, "soft": soft.value, "hard": hard.value},
        warnings=hardened.warnings,
    )
