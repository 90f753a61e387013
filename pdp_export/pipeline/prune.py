"""Stage 3: PDP training from the dense reference; the only stage that may change the function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.crew import together
from pdp_export.pipeline.outputs import WEIGHTS
from pdp_export.pipeline.pruner_state import save_soft
from pdp_export.pipeline.training_progress import forward_progress
from pdp_export.pruning.pruner import Pruner
from pdp_export.tasks.objective import example_inputs
from pdp_export.training.distillation import Distiller
from pdp_export.training.loop import train

if TYPE_CHECKING:
    from torch import nn

    from pdp_export.training.records import TrainingResult


def run(context: Context, output: Path) -> Outcome:
    """Write the soft model (``soft.safetensors``), its pruner (``pruner.*``) and ``history.json``."""
    if context.recipe.pruning.epochs == 0:
        return _one_shot(context, output)
    with together(context, "prune"):
        model, pruner, result = trained(context)
    save_soft(model, pruner, output)
    _write_history(output, pruner, result.history)
    section = context.recipe.pruning
    return Outcome(
        summary=f"{section.goal}, {section.epochs} epochs, soft {context.recipe.task.metric} {result.metric:.4f}",
        figures={"soft_metric": result.metric, **_shares(pruner)},
        warnings=result.warnings,
    )


def trained(context: Context) -> tuple[nn.Module, Pruner, TrainingResult]:
    """Train with soft masks; the part of this stage that every process takes part in."""
    recipe = context.recipe
    model, pruner, distiller = _prepared(context)
    result = train(
        model, context.data, context.objective, recipe.training,
        epochs=recipe.pruning.epochs, lr=recipe.pruning.lr or recipe.training.lr, seed=recipe.seed + 1,
        checkpoint_dir=context.checkpoint_dir, pruner=pruner, distiller=distiller,
        on_progress=forward_progress(context.observer, "pruning"),
        input_names=context.input_names, dynamic=context.dynamic,
    )  # fmt: skip
    return model, pruner, result


def _one_shot(context: Context, output: Path) -> Outcome:
    """Choose the zeros by the dense weights alone; they are written when the masks are hardened."""
    model, pruner, _ = _prepared(context)
    pruner.one_shot()
    save_soft(model, pruner, output)
    _write_history(output, pruner, ())
    return Outcome(
        summary=f"{context.recipe.pruning.goal}, one-shot (not trained)",
        figures={**_shares(pruner), "one_shot": True},
    )


def _prepared(context: Context) -> tuple[nn.Module, Pruner, Distiller | None]:
    """Return the dense reference with its masks, and its unmasked twin as a teacher where one is asked for."""
    recipe = context.recipe
    model = context.model(context.output_of("train-dense") / WEIGHTS if context.crew.leads else None)
    context.crew.share_tensors(model.state_dict())
    distiller = None
    if recipe.distillation is not None:
        teacher = context.model()
        teacher.load_state_dict(model.state_dict())
        distiller = Distiller(teacher, recipe.distillation, recipe.outputs, context.objective.output)
    inputs = example_inputs(recipe, context.capture_batch)
    return model, Pruner.from_section(model, recipe.pruning, inputs, context.dynamic), distiller


def _shares(pruner: Pruner) -> dict[str, float]:
    """Return the pruned share of the units, and with a budget the share of its work that stays."""
    kept = pruner.budget.kept_share([mask.pruned for mask in pruner.masks])
    return {"pruned_share": pruner.sparsity, **({} if kept is None else {"budget_kept": kept})}


def _write_history(output: Path, pruner: Pruner, history: Sequence[Any]) -> None:
    """Write the epochs, the masks that are handed on (churn: over the last epoch) and what was left dense."""
    last = pruner.statistics()  # of the averaged weights, where training averages them
    if history:
        pairs = zip(last, history[-1].layers, strict=True)
        last = [row.model_copy(update={"churn": trained.churn}) for row, trained in pairs]
    values = {"epochs": history, "layers": last, "skipped": pruner.skipped}
    rows = {key: [item.model_dump(mode="json") for item in items] for key, items in values.items()}
    write_json(output / "history.json", rows)
