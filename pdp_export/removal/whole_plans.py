"""Chooses between whole plans: a run of the network knows what the sum of its layers' times misses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pdp_export.graph.nodes import is_tensor, shape, tensor_of
from pdp_export.removal.carrying_out import carry_out, workpiece
from pdp_export.removal.concatenations import cuts_parts
from pdp_export.removal.costs import CostModel
from pdp_export.removal.planning import Plan
from pdp_export.removal.records import RemovalReport
from pdp_export.removal.rewriting import apply_plan
from pdp_export.removal.simplification import Prepared, recapture

MARGIN = 0.01
"""The share of its time by which another plan must be faster than the first to be taken in its place."""

Programs = Mapping[str, Callable[[], ExportedProgram]]


class Judge(Protocol):
    """Times whole networks, and remembers times in microseconds."""

    def known(self, key: str, names: Sequence[str]) -> Mapping[str, float] | None:
        """Return the remembered time of each plan for a network, None unless all are known."""

    def timed(self, programs: Programs) -> Mapping[str, float]:
        """Make each program and time all of them side by side."""

    def remember(self, key: str, times: Mapping[str, float]) -> None:
        """Note the time of each plan for a network."""


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
    key = _key(prepared.folded, costs)
    times = judge.known(key, list(costs))
    if times is None:
        times = _timed(prepared, {name: piece.plan(cost.fills, cost) for name, cost in costs.items()}, costs, judge)
        judge.remember(key, times)
    best = _fastest(times, favourite=next(iter(costs)))
    plan = piece.plan(costs[best].fills, costs[best])
    module, report = carry_out(piece, plan, prepared, cost_of=costs[best].name, stage=stage)
    return module, report.model_copy(update={"plan": best, "plans": times if any(times.values()) else {}})


def _timed(
    prepared: Prepared, plans: Mapping[str, Plan], costs: Mapping[str, CostModel], judge: Judge
) -> Mapping[str, float]:
    """Return the time of each plan, where equal ones are timed once; where all are equal, none is: zeros."""
    first: dict[str, str] = {}
    like = {name: first.setdefault(_signature(plan), name) for name, plan in plans.items()}
    makers = {name: _maker(prepared, costs[name]) for name in first.values()}
    found = judge.timed(makers) if len(makers) > 1 else {}
    return {name: found.get(twin, 0.0) for name, twin in like.items()}


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
    shared = [(sharing.producer.name, len(sharing.classes)) for sharing in plan.sharings]
    cut = plan.before_concatenations and cuts_parts(plan)
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
    return json.dumps([layers, shared, cut])


def _key(module: GraphModule, costs: Mapping[str, CostModel]) -> str:
    """Return what names a network by all that plans depend on: its graph, sizes and zeros, and what decides."""
    known = hashlib.sha256(
        repr(
            [(name, cost.name, cost.fills, cost.worthwhile, cost.before_concatenations) for name, cost in costs.items()]
        ).encode()
    )
    for node in module.graph.nodes:
        size = shape(node) if is_tensor(node) else ()
        known.update(repr((node.op, str(node.target), node.args, node.kwargs, size)).encode())
        if node.op == "get_attr":
            tensor = tensor_of(module, str(node.target))
            known.update(np.packbits((tensor != 0).numpy(force=True)).tobytes())
    return known.hexdigest()
