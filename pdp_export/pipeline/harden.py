"""Stage 4: masks become exact zeros; the soft-versus-hard gap is measured, not assumed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.outputs import WEIGHTS
from pdp_export.pipeline.pruner_state import load_soft
from pdp_export.pruning.pruner import Pruner
from pdp_export.tasks.model import save_weights
from pdp_export.tasks.objective import example_inputs
from pdp_export.training.randomness import seed_epoch
from pdp_export.training.recalibration import recalibrate

if TYPE_CHECKING:
    from torch import nn

_BATCHES = 100  # at most: a running mean is settled long before


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
    zeroed = context.evaluate(model)
    again = _recalibrated(context, model)
    hard = context.evaluate(model) if again else zeroed
    if again:
        again |= {"before": zeroed, "after": hard}
    save_weights(model, output / WEIGHTS)
    values = {"pruning": hardened.model_dump(mode="json"), "soft": soft, "hard": hard, "n": context.validation_size}
    write_json(output / "harden.json", {**values, "one_shot": recipe.pruning.epochs == 0, "recalibration": again})
    return Outcome(
        summary=f"{hardened.sparsity:.2%} zeros in {len(hardened.masks)} masked tensors or groups, "
        f"soft {soft:.4f} -> hard {zeroed:.4f}{_words(again)}",
        figures={"pruned_share": hardened.asked, "zeros": hardened.sparsity, "soft": soft, "hard": hard},
        warnings=hardened.warnings,
    )


def _recalibrated(context: Context, model: nn.Module) -> dict[str, Any] | None:
    """Measure BatchNorm again where the recipe asks for it, or where nothing was trained; None where it was not."""
    section, data = context.recipe.pruning, context.data.train
    asked = section.recalibrate_batchnorm
    if not (section.epochs == 0 if asked is None else asked):
        return None
    seed_epoch(context.recipe.seed, 0, data)
    report = recalibrate(model, data, _BATCHES, input_names=context.input_names, dynamic=context.dynamic)
    return report.model_dump(mode="json") if report.layers else None


def _words(again: dict[str, Any] | None) -> str:
    if again is None:
        return ""
    return f" -> {again['after']:.4f} with {again['layers']} BatchNorm layers measured on {again['batches']} batches"
