"""Stage 2: the dense reference, from the user's weights or from one run of the same recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.crew import together
from pdp_export.pipeline.outputs import WEIGHTS
from pdp_export.pipeline.training_progress import forward_progress
from pdp_export.tasks.model import save_weights
from pdp_export.training.loop import train

if TYPE_CHECKING:
    from torch import nn

    from pdp_export.training.records import TrainingResult


def run(context: Context, output: Path) -> Outcome:
    """Write ``model.safetensors`` and ``dense.json`` (metric, source, history)."""
    recipe = context.recipe
    given = recipe.model.weights
    history: list[dict[str, object]] = []
    if given:
        model = context.model(recipe.folder / given)
        source = f"given weights ({Path(given).name})"
    else:
        with together(context, "train-dense"):
            model, result = trained(context)
        history = [record.model_dump(mode="json") for record in result.history]
        source = f"trained by this recipe, {recipe.training.epochs} epochs"
    metric, count = context.evaluate(model), context.validation_size
    save_weights(model, output / WEIGHTS)
    write_json(output / "dense.json", {"metric": metric, "n": count, "source": source, "history": history})
    return Outcome(
        summary=f"{recipe.task.metric} {metric:.4f} on {count} samples, {source}",
        figures={"metric": metric, "n": count},
    )


def trained(context: Context) -> tuple[nn.Module, TrainingResult]:
    """Train the dense reference; the part of this stage that every process takes part in."""
    recipe = context.recipe
    model = context.model()
    result = train(
        model, context.data, context.objective, recipe.training,
        epochs=recipe.training.epochs, lr=recipe.training.lr, seed=recipe.seed,
        checkpoint_dir=context.checkpoint_dir, on_progress=forward_progress(context.observer, "dense training"),
        input_names=context.input_names, dynamic=context.dynamic,
    )  # fmt: skip
    return model, result
