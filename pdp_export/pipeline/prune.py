"""Stage 3: PDP training from the dense reference; the only stage that may change the function."""

from __future__ import annotations

from pathlib import Path

from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.outputs import WEIGHTS
from pdp_export.pipeline.pruner_state import save_soft
from pdp_export.pipeline.training_progress import forward_progress
from pdp_export.pruning.pruner import Pruner
from pdp_export.tasks.objective import example_inputs
from pdp_export.training.loop import train


def run(context: Context, output: Path) -> Outcome:
    """Write the soft model and pruner (``soft.safetensors``, ``soft.json``) and ``history.json``."""
    recipe = context.recipe
    model = context.model(context.output_of("train-dense") / WEIGHTS)
    inputs = example_inputs(recipe, context.capture_batch)
    pruner = Pruner.from_section(model, recipe.pruning, inputs, context.dynamic)
    result = train(
        model, context.data, context.objective, recipe.training,
        epochs=recipe.pruning.epochs, lr=recipe.pruning.lr or recipe.training.lr, seed=recipe.seed + 1,
        checkpoint_dir=context.checkpoint_dir, pruner=pruner,
        on_progress=forward_progress(context.observer, "pruning"),
        input_names=[item.name for item in recipe.inputs], dynamic=context.dynamic,
    )  # fmt: skip
    save_soft(model, pruner, output)
    history = [record.model_dump(mode="json") for record in result.history]
    statistics = [item.model_dump(mode="json") for item in pruner.statistics()]
    skipped = [item.model_dump(mode="json") for item in pruner.skipped]
    write_json(output / "history.json", {"epochs": history, "layers": statistics, "skipped": skipped})
    return Outcome(
        summary=f"{recipe.pruning.pattern} {recipe.pruning.sparsity:g}, {recipe.pruning.epochs} epochs, "
        f"soft {recipe.task.metric} {result.metric:.4f}",
        figures={"soft_metric": result.metric, "sparsity_asked": recipe.pruning.sparsity},
        warnings=result.warnings,
    )
