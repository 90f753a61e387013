"""The dry run: what would be done, what each target can profit from, and predicted sizes. Trains nothing."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from pdp_export.converters import registry
from pdp_export.graph.capture import capture
from pdp_export.graph.channel_groups import ChannelGroup, channel_groups
from pdp_export.graph.counting import count
from pdp_export.pipeline.check import check_distillation
from pdp_export.pipeline.context import Context
from pdp_export.pipeline.observer import Silent
from pdp_export.pipeline.requests import check_targets
from pdp_export.pipeline.run_directory import RunDirectory
from pdp_export.pipeline.stages import STAGES
from pdp_export.pruning.pruner import Pruner
from pdp_export.recipe import Recipe, TargetSection
from pdp_export.results import Record, Skipped
from pdp_export.targets import Effects
from pdp_export.tasks.objective import example_inputs

_DENSE_BITS = {"fp32": 32.0, "fp16": 16.0}


class PlannedStage(Record):
    """One stage of the list with its reason."""

    name: str
    reason: str


class PlannedTarget(Record):
    """What a target can profit from, and its predicted bytes (weights only, before training).

    `effects` speak of mechanisms, not of measurements. `predicted_*` are None where the target
    declares no formula.
    """

    target: str
    precision: str
    encoding: str
    effects: Effects
    dense_bytes: int
    predicted_bytes: int | None


class Plan(Record):
    """The whole dry run."""

    name: str
    goal: str
    params: int
    macs: int
    masks: int
    stages: tuple[PlannedStage, ...]
    targets: tuple[PlannedTarget, ...]
    skipped: tuple[Skipped, ...]


def plan(recipe: Recipe) -> Plan:
    """Return what a run of this recipe would do. The model is built and captured once, nothing is written.

    Raises:
        PdpExportError: for everything that the stage "check" would refuse about model and targets.
    """
    from pathlib import Path

    context = Context(recipe, RunDirectory(Path()), Silent())
    for section in recipe.targets:
        registry.load(section.name).TARGET.require()
    model = context.model()
    inputs = example_inputs(recipe, context.capture_batch)
    program = capture(model, inputs, context.dynamic)
    check_targets(recipe, program)
    check_distillation(context, model, inputs)
    counts = count(program)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    pruner = Pruner.from_section(model, recipe.pruning, inputs, context.dynamic)
    lost = pruner.expected()
    groups = channel_groups(program, recipe.pruning.ties) if recipe.pruning.pattern == "channel" else []
    kept = _kept_shares(shapes, lost, groups)
    return Plan(
        name=recipe.name, goal=recipe.pruning.goal,
        params=counts.parameters, macs=counts.macs, masks=len(pruner.masks),
        stages=tuple(PlannedStage(name=stage.name, reason=stage.reason) for stage in STAGES),
        targets=tuple(_planned(recipe, section, shapes, kept) for section in recipe.targets),
        skipped=pruner.skipped,
    )  # fmt: skip


def _kept_shares(
    shapes: Mapping[str, tuple[int, ...]], lost: Mapping[str, float], groups: list[ChannelGroup]
) -> dict[str, float]:
    """Return the share of each parameter that is not zero (unstructured) or not removed (channel)."""
    if not groups:
        return {name: 1 - lost.get(name, 0.0) for name in shapes}
    kept = dict.fromkeys(shapes, 1.0)
    for group in groups:
        for name in (*group.filters, *group.followers, *group.consumers):
            kept[name] = kept.get(name, 1.0) * (1 - lost.get(group.filters[0] if group.filters else "", 0.0))
    return kept


def _planned(
    recipe: Recipe, section: TargetSection, shapes: Mapping[str, tuple[int, ...]], kept: Mapping[str, float]
) -> PlannedTarget:
    target = registry.load(section.name).TARGET
    precision = section.precision or target.precisions[0]
    width = _DENSE_BITS.get(precision, 32.0)
    predicted: float | None = 0.0
    for name, shape in shapes.items():
        bits = _bits(recipe, section, prod(shape), len(shape), kept[name], width)
        predicted = None if bits is None or predicted is None else predicted + bits
    return PlannedTarget(
        target=section.name, precision=precision, encoding=section.encoding,
        effects=target.effects[recipe.pruning.structure],
        dense_bytes=round(sum(prod(shape) for shape in shapes.values()) * width / 8),
        predicted_bytes=round(predicted / 8) if predicted is not None else None,
    )  # fmt: skip


def _bits(recipe: Recipe, section: TargetSection, elements: int, rank: int, kept: float, width: float) -> float | None:
    if recipe.pruning.pattern == "channel":
        return elements * kept * width
    if rank == 1 or kept == 1.0:
        return elements * width
    target = registry.load(section.name).TARGET
    bits = target.predicted_bits(section.precision or target.precisions[0], section.encoding, 1 - kept)
    return None if bits is None else elements * bits
