"""Stage 1: refuse now what would otherwise be refused after an hour of training."""

from __future__ import annotations

from pathlib import Path

import torch

from pdp_export.converters import registry
from pdp_export.errors import PdpExportError, RecipeError, first_line
from pdp_export.graph.capture import capture
from pdp_export.graph.counting import count
from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.requests import check_targets
from pdp_export.pruning.pruner import Pruner
from pdp_export.report import formatting
from pdp_export.tasks import preprocessing
from pdp_export.tasks.data import unpack
from pdp_export.tasks.objective import example_inputs, named_outputs
from pdp_export.training.distillation import Distiller


def run(context: Context, output: Path) -> Outcome:
    """Check targets, data, outputs, capture and pattern; write what the dense model is made of."""
    recipe = context.recipe
    preprocessing.check(recipe)
    for section in recipe.targets:
        registry.load(section.name).TARGET.require()
    model = context.model()
    _check_forward(context, model)
    _check_objective(context, model)
    inputs = example_inputs(recipe, context.capture_batch)
    program = capture(model, inputs, context.dynamic)
    check_targets(recipe, program)
    counts = count(program)
    check_distillation(context, model, inputs)
    pruner = Pruner.from_section(model, recipe.pruning, inputs, context.dynamic)
    write_json(
        output / "dense.json",
        {"macs": counts.macs, "params": counts.parameters, "nonzero": counts.nonzero},
    )
    return Outcome(
        summary=f"{formatting.count(counts.parameters)} params, {formatting.count(counts.macs)} MACs, "
        f"{len(recipe.targets)} targets, {len(pruner.skipped)} layers left dense",
        figures={"params": counts.parameters, "macs": counts.macs},
    )


def _check_objective(context: Context, model: torch.nn.Module) -> None:
    """Try loss and metric on one validation batch: a broken metric must not wait for the first epoch's end."""
    inputs, target = unpack(next(iter(context.data.validation)), [item.name for item in context.recipe.inputs])
    with torch.no_grad():
        outputs = model(*inputs)
        context.objective.loss(outputs, target)
        context.objective.scores(outputs, target)


def check_distillation(context: Context, model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Let an untrained twin teach once.

    Raises:
        RecipeError: for a module or output that cannot be distilled.
    """
    section = context.recipe.distillation
    if section is not None:
        teacher = context.model()
        Distiller(teacher, section, context.recipe.outputs, context.objective.output).rehearse(model, inputs)


def _check_forward(context: Context, model: torch.nn.Module) -> None:
    """Run the model once and give its outputs the recipe's names."""
    recipe = context.recipe
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(*example_inputs(recipe, context.capture_batch))
    except PdpExportError:
        raise
    except Exception as error:
        from pdp_export.tasks.user_source import user_line

        raise RecipeError(
            f"the model does not accept the recipe's inputs: {first_line(error)}",
            where=user_line(error) or "inputs",
            hint="check inputs.*.shape and dtype",
        ) from error
    named = named_outputs(outputs, recipe.outputs)
    chosen = named[recipe.task.output or recipe.outputs[0]]
    labels = recipe.preprocessing.labels
    if labels and chosen.dim() > 1 and len(labels) != chosen.shape[1]:
        raise RecipeError(
            f"preprocessing.labels has {len(labels)} entries, the output has {chosen.shape[1]} classes",
            where="preprocessing.labels",
        )
