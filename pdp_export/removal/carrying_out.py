"""Carries a plan out: the report, the rewritten graph, and the proof in float64 that it computes the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.capture import quiet_export
from pdp_export.graph.channel_trace import trace
from pdp_export.graph.facts import Facts, channel_facts
from pdp_export.graph.tracing import Trace
from pdp_export.removal.constant_operands import replace_constant_operands
from pdp_export.removal.costs import CostModel
from pdp_export.removal.folding import drop_unused_tensors
from pdp_export.removal.hoisting import NARROWED
from pdp_export.removal.planning import Plan, plan_removal
from pdp_export.removal.proof import Expected, prove
from pdp_export.removal.records import RemovalReport
from pdp_export.removal.reporting import removal_report
from pdp_export.removal.rewriting import apply_plan
from pdp_export.removal.simplification import Prepared


@dataclass(frozen=True)
class Workpiece:
    """A copy of a prepared network for one plan to be carried out on, with what is known of its channels.

    `vanished` are the parameters of branches that are one constant, which are gone already.
    """

    module: GraphModule
    facts: Facts
    trace: Trace
    vanished: Mapping[str, Tensor]

    def plan(self, aligns: Sequence[int], cost: CostModel) -> Plan:
        """Return a plan by these costs; nothing is changed."""
        return plan_removal(self.trace, self.facts, aligns, cost)


def workpiece(prepared: Prepared) -> Workpiece:
    """Copy the folded network and find its facts."""
    with quiet_export():
        edited = copy.deepcopy(prepared.folded)
    facts = channel_facts(edited)
    if replace_constant_operands(edited, facts):
        drop_unused_tensors(edited)
        facts = channel_facts(edited)
    staying = dict(edited.named_parameters())
    vanished = {name: item for name, item in prepared.folded.named_parameters() if name not in staying}
    return Workpiece(edited, facts, trace(edited), vanished)


@dataclass(frozen=True)
class Rewritten:
    """A network with a plan carried out, not proven yet; the report lacks the proof and the counts."""

    module: GraphModule
    plan: Plan
    report: RemovalReport


def remove_from(
    prepared: Prepared, aligns: Sequence[int], cost: CostModel, *, stage: str
) -> tuple[GraphModule, RemovalReport]:
    """Plan, rewrite and prove in float64; the report lacks only the counts."""
    piece = workpiece(prepared)
    return proven(rewritten(piece, piece.plan(aligns, cost), cost_of=cost.name), prepared, stage=stage)


def rewritten(piece: Workpiece, plan: Plan, *, cost_of: str) -> Rewritten:
    """Rewrite a workpiece by its plan, in place."""
    report = removal_report(plan, piece.facts, piece.vanished, align=plan.align, cost_of=cost_of)
    apply_plan(plan)
    return Rewritten(piece.module, plan, report)


def proven(result: Rewritten, prepared: Prepared, *, stage: str) -> tuple[GraphModule, RemovalReport]:
    """Prove that a rewritten network computes what the original does; the report lacks only the counts.

    Raises:
        ProofError: it differs by more than 1e-12 of max|y|.
    """
    error = prove(
        prepared.original, result.module, prepared.cases, stage=stage, expected=_expected(result.plan, prepared)
    )
    proof = {"proof_error": max(error, prepared.error), "proof_cases": len(prepared.cases)}
    return result.module, result.report.model_copy(update=proof)


def _expected(plan: Plan, prepared: Prepared) -> Expected:
    """Return what each node of the rewritten graph should compute: the old value at the channels that stay."""

    def expected(node: Node, old: Mapping[str, Tensor]) -> Tensor | None:
        value, channels = old.get(prepared.moved.get(node.name, node.name)), plan.trace.channels(node)
        split = plan.trace.split(node)
        if value is not None and split is not None:
            for axis, kept in zip(split.axes, plan.kept_along(split), strict=True):
                value = value.index_select(axis, torch.from_numpy(kept))
        if value is None or channels is None:
            return value
        if node in plan.narrowed or node.meta.get(NARROWED):
            return None  # its channels stand in their places only behind the copy that follows
        if plan.fillers[plan.roots[channels.slots]].any():
            return None  # where nobody reads a filler, its value is free
        return value.index_select(channels.axis, torch.from_numpy(plan.kept(channels.slots)))

    return expected
