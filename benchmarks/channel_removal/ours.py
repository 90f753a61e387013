"""Our own removal, with measured costs, with estimated ones, and with constant policies."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from benchmarks.channel_removal.case import Case
from pdp_export.costs.onnx_networks import plain
from pdp_export.pipeline.plan_times import PlanTimes, rivals
from pdp_export.pipeline.removal_api import LAYER_BY_LAYER
from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import CostModel, Macs, Never, cost_model
from pdp_export.removal.precision import narrowed
from pdp_export.removal.simplification import Prepared, prepare
from pdp_export.removal.whole_plans import remove_by_best

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from pdp_export.costs.measured import Measured, Runtime
    from pdp_export.removal.records import RemovalReport


@dataclass(frozen=True)
class Made:
    """A variant, and what is worth knowing about how it was made."""

    module: nn.Module
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def measured(runtime: str, folder: Path) -> Measured:
    """Return the cost model that measures on a runtime and remembers in a folder."""
    from pdp_export.costs import measured as model

    return model(cast("Runtime", runtime), threads=1, folder=folder)


def estimate(align: int) -> CostModel:
    """Return the cost model that measures nothing."""
    return cost_model("latency", (align,))


def planned(runtime: str) -> Callable[[Case], Made]:
    """Return the variant whose plan was measured on a runtime; its time of planning is read twice."""

    def make(case: Case) -> Made:
        first = _best(case, measured(runtime, case.costs))
        again = _best(case, measured(runtime, case.costs))
        cached = {f"plan_cached_{unit}": again.facts[f"plan_{unit}"] for unit in ("s", "cpu_s")}
        return Made(first.module, first.facts | cached)

    return make


def estimated(runtime: str) -> Callable[[Case], Made]:
    """Return the variant whose plan for a runtime was estimated: tensors in whole blocks where the runtime has some."""

    def make(case: Case) -> Made:
        align = 1 if runtime == "torch" else case.block
        return _removed(case.prepared, (align,), estimate(align))

    return make


def never(align: int) -> Callable[[Case], Made]:
    """Return the variant without any gather."""
    return lambda case: _removed(case.prepared, (align,), Never((align,)))


def always(align: int) -> Callable[[Case], Made]:
    """Return the variant with every gather that makes a layer narrower."""
    return lambda case: _removed(case.prepared, (align,), Macs((align,)))


def for_target(case: Case, target: str) -> ExportedProgram:
    """Return the program that our public function makes for a target whose costs are not measured."""
    from pdp_export import remove_channels

    return remove_channels(case.masked, case.images[:1], target=target).program


def removed_from(model: nn.Module, images: tuple[Tensor, ...], cost: CostModel) -> Made:
    """Return a module of ours for any network, with the widths that the costs know of."""
    return _removed(prepare(model, images, None), cost.fills, cost)


def _best(case: Case, layers: Measured) -> Made:
    costs = {LAYER_BY_LAYER: layers, **rivals(layers)}
    return _made(lambda: remove_by_best(_unproven(case.prepared), costs, PlanTimes(layers), stage="benchmark"))


def _removed(prepared: Prepared, aligns: Sequence[int], cost: CostModel) -> Made:
    return _made(lambda: remove_from(_unproven(prepared), aligns, cost, stage="benchmark"))


def _unproven(prepared: Prepared) -> Prepared:
    """Leave the proof out, since every variant is compared with the masked network."""
    return dataclasses.replace(prepared, cases=[])


def _made(remove: Callable[[], tuple[GraphModule, RemovalReport]]) -> Made:
    """Plan and rewrite, with the time that both take."""
    start, busy = time.perf_counter(), _busy_s()
    edited, report = remove()
    seconds, cpu = time.perf_counter() - start, _busy_s() - busy
    chosen = [choice.chosen for choice in report.choices]
    with torch.no_grad():
        module = plain(narrowed(edited)).eval()
    facts = {
        "plan_s": round(seconds, 3),
        "plan_cpu_s": round(cpu, 3),
        "choices": {name: chosen.count(name) for name in dict.fromkeys(chosen)},
    }
    if report.plan:
        facts |= {"plan": report.plan, "plans_us": {name: round(us, 1) for name, us in report.plans.items()}}
    return Made(module, facts)


def _busy_s() -> float:
    """Return the processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])
