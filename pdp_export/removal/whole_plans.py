"""Chooses between whole plans: a run of the network knows what the sum of its layers' times misses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch.export import ExportedProgram
from torch.fx import GraphModule

from pdp_export.graph.nodes import is_tensor, shape
from pdp_export.removal.carrying_out import carry_out, workpiece
from pdp_export.removal.costs import CostModel
from pdp_export.removal.planning import Plan
from pdp_export.removal.records import RemovalReport
from pdp_export.removal.rewriting import apply_plan
from pdp_export.removal.simplification import Prepared, recapture

MARGIN = 0.01
"""The share of its time by which another plan must be faster than the first to be taken in its place."""

Programs = Mapping[str, Callable[[], ExportedProgram]]


class Judge(Protocol):
    """Times whole networks."""

    def known(self, key: str, names: Sequence[str]) -> Mapping[str, float] | None:
        """Return the remembered time of each plan for a network, None unless all are known."""

    def timed(self, key: str, programs: Programs) -> Mapping[str, float]:
        """Make each program, time all of them side by side, and remember the times."""


def remove_by_best(
    prepared: Prepared, costs: Mapping[str, CostModel], judge: Judge, *, stage: str
) -> tuple[GraphModule, RemovalReport]:
    """Plan by each of `costs`, time the plans that differ, and carry out the fastest.

    The first is the favourite: another must be faster by more than `MARGIN`. A plan that is not carried out is not
    proven either.

    Raises:
        ProofError: the result differs by more than 1e-12 of max|y|.
    """
    piece = workpiece(prepared)
    plans = {name: piece.plan(cost.fills, cost) for name, cost in costs.items()}
    different = list({_signature(plan): name for name, plan in reversed(plans.items())}.values())[::-1]
    times: Mapping[str, float] = {}
    best = different[0]
    if len(different) > 1:
        key = hashlib.sha256("".join(_signature(plans[name]) for name in different).encode()).hexdigest()
        makers = {name: _maker(prepared, costs[name]) for name in different}
        times = judge.known(key, different) or judge.timed(key, makers)
        best = _fastest(times, favourite=best)
    module, report = carry_out(piece, plans[best], prepared, cost_of=costs[best].name, stage=stage)
    return module, report.model_copy(update={"plan": best, "plans": times})


def _fastest(times: Mapping[str, float], favourite: str) -> str:
    best = min(times, key=times.__getitem__)
    return best if times[best] < times[favourite] * (1 - MARGIN) else favourite


def _maker(prepared: Prepared, cost: CostModel) -> Callable[[], ExportedProgram]:
    def make() -> ExportedProgram:
        piece = workpiece(prepared)
        apply_plan(piece.plan(cost.fills, cost))
        return recapture(piece.module, prepared)

    return make


def _signature(plan: Plan) -> str:
    """Return what two plans have in common that take the same time: every layer's widths, and its gathers."""
    layers = [
        (
            use.role,
            shape(use.node) if is_tensor(use.node) else (),
            len(plan.stay(use)),
            len(plan.kept(use.slots)),
            use.node in plan.narrowed,
        )
        for use in plan.trace.uses
    ]
    return json.dumps(layers)
