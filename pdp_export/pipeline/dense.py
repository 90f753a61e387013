"""Stage 2: the dense reference, from the user's weights or from one run of the same recipe."""

from __future__ import annotations

from pathlib import Path

from pdp_export.training.evaluate import evaluate
from safetensors.torch import save_file

from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.training_progress import forward_progress
from pdp_export.training.loop import train

WEIGHTS = "model.safetensors"


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
        )  # fmt: skip
        history = [record.model_dump(mode="json") for record in result.history]
        source = f"trained by this recipe, {recipe.training.epochs} epochs"
    metric = evaluate(model, context.data.validation, context.objective)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, output / WEIGHTS)
    write_json(output / "dense.json", {"metric": metric.value, "n": metric.n, "source": source, "history": history})
    return Outcome(
        summary=f"{recipe.task.metric} {metric.value:.4f} on {metric.n} samples, {source}",
        figures={"metric": metric.value, "n": metric.n},
    )
