"""Stage 2: the dense reference, from the user's weights or from one run of the same recipe."""

from __future__ import annotations

from pathlib import Path

from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.outputs import WEIGHTS
from pdp_export.pipeline.training_progress import forward_progress
from pdp_export.tasks.model import save_weights
from pdp_export.training.loop import train


def run(context: Context, output: Path) -> Outcome:
    """Write ``model.safetensors`` and ``dense.json`` (metric, source, history)."""
    recipe = context.recipe
    given = recipe.model.weights
    history: list[dict[str, object]] = []
    if given:
        model = context.model(recipe.folder / given)
        source = f"given weights ({Path(given).name})"
    else:
        model = context.model()
        result = train(
            model, context.data, context.objective, recipe.training,
            epochs=recipe.training.epochs, lr=recipe.training.lr, seed=recipe.seed,
            checkpoint_dir=context.checkpoint_dir, on_progress=forward_progress(context.observer, "dense training"),
            input_names=[item.name for item in recipe.inputs], dynamic=context.dynamic,
        )  # fmt: skip
        history = [record.model_dump(mode="json") for record in result.history]
        source = f"trained by this recipe, {recipe.training.epochs} epochs"
    metric, count = context.evaluate(model), context.validation_size
    save_weights(model, output / WEIGHTS)
    write_json(output / "dense.json", {"metric": metric, "n": count, "source": source, "history": history})
    return Outcome(
        summary=f"{recipe.task.metric} {metric:.4f} on {count} samples, {source}",
        figures={"metric": metric, "n": count},
    )
