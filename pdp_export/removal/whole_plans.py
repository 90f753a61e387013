"""Chooses between whole plans: a run of the network knows what the sum of its layers' times misses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pdp_export.graph.nodes import is_tensor, shape, tensor_of
from pdp_export.removal.carrying_out import Rewritten, proven, rewritten, workpiece
from pdp_export.removal.concatenations import cuts_parts
from pdp_export.removal.costs import CostModel
from pdp_export.removal.planning import Plan
from pdp_export.removal.precision import narrowed
from pdp_export.removal.proof import Inputs
from pdp_export.removal.records import RemovalReport
from pdp_export.removal.simplification import Prepared, recapture

MARGIN = 0.01
"""The share of its time by which another plan must be faster than the first to be taken in its place."""


@dataclass(frozen=True)
class Network:
    """A network with one plan carried out: in float32, with what it reads; `program` captures it, which takes long."""

    module: GraphModule
    inputs: Inputs
    program: Callable[[], ExportedProgram]


Networks = Mapping[str, Callable[[], Network]]


class Judge(Protocol):
    """Times whole networks, and remembers times in microseconds."""

    def known(self, key: str, names: Sequence[str]) -> Mapping[str, float] | None:
        """Return the remembered time of each plan for a network, None unless all are known."""

    def timed(self, networks: Networks) -> Mapping[str, float]:
        """Make each network and time all of them side by side."""

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
    key = _key(prepared.folded, costs)
    times, made = judge.known(key, list(costs)), dict[str, Rewritten]()
    if times is None:
        made = _carried_out(prepared, costs)
        times = _timed(prepared, made, judge)
        judge.remember(key, times)
    best = _fastest(times, favourite=next(iter(costs)))
    result = made[best] if made else _rewritten(prepared, costs[best])
    made.clear()  # the others take memory
    module, report = proven(result, prepared, stage=stage)
    return module, report.model_copy(update={"plan": best, "plans": times if any(times.values()) else {}})


def _carried_out(prepared: Prepared, costs: Mapping[str, CostModel]) -> dict[str, Rewritten]:
    """Return the network by each plan; plans that take the same time share one."""
    by_signature: dict[str, Rewritten] = {}
    made = {}
    for name, cost in costs.items():
        piece = workpiece(prepared)
        plan = piece.plan(cost.fills, cost)
        signature = _signature(plan)
        if signature not in by_signature:
            by_signature[signature] = rewritten(piece, plan, cost_of=cost.name)
        made[name] = by_signature[signature]
    return made


def _rewritten(prepared: Prepared, cost: CostModel) -> Rewritten:
    piece = workpiece(prepared)
    return rewritten(piece, piece.plan(cost.fills, cost), cost_of=cost.name)


def _timed(prepared: Prepared, made: Mapping[str, Rewritten], judge: Judge) -> Mapping[str, float]:
    """Return the time of each plan, where equal ones are timed once; where all are equal, none is: zeros."""
    first: dict[int, str] = {}
    like = {name: first.setdefault(id(result), name) for name, result in made.items()}
    networks = {name: partial(_network, prepared, made[name].module) for name in first.values()}
    found = judge.timed(networks) if len(networks) > 1 else {}
    return {name: found.get(twin, 0.0) for name, twin in like.items()}


def _fastest(times: Mapping[str, float], favourite: str) -> str:
    best = min(times, key=times.__getitem__)
    return best if times[best] < times[favourite] * (1 - MARGIN) else favourite


def _network(prepared: Prepared, module: GraphModule) -> Network:
    inputs = tuple(value.float() if value.is_floating_point() else value for value in prepared.inputs)
    return Network(narrowed(module), inputs, partial(recapture, module, prepared))


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
