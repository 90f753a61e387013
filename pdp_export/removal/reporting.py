"""Turns a plan into the report: what was asked for, what goes, what stays and why."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pdp_export.graph.facts import Facts
from pdp_export.graph.nodes import LAYERS, argument, aten, operator, tensor_of
from pdp_export.graph.slots import Ids, Use
from pdp_export.removal.planning import Plan
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.readers import Mask
from pdp_export.removal.reasons import VARIES, Holders, holders, what_varies
from pdp_export.removal.records import LayerChange, RemovalReport
from pdp_export.results import Skipped


def removal_report(
    plan: Plan, facts: Facts, vanished: Mapping[str, Tensor], *, align: int, cost_of: str
) -> RemovalReport:
    """Describe a plan before it is carried out; counts and proof are filled in afterwards."""
    gone = [_vanished(name, tuple(weight.shape)) for name, weight in vanished.items() if weight.dim() > 1]
    held = holders(plan.trace, plan.roots)
    layers = (*gone, *(_layer(plan, facts, held, weight, align) for weight in _weights(plan)))
    skipped = tuple(
        Skipped(layer=layer.layer, stage="remove_channels", reason=layer.reason) for layer in layers if layer.reason
    )
    return RemovalReport(
        layers=layers,
        align=align,
        macs_before=0,
        macs_after=0,
        parameters_before=0,
        parameters_after=0,
        skipped=skipped,
        proof_error=0.0,
        proof_limit=LIMIT,
        proof_cases=0,
        nothing_removed=_nothing_removed(layers),
        cost_of=cost_of,
        choices=tuple(plan.choices),
    )


def _vanished(weight: str, shape: tuple[int, ...]) -> LayerChange:
    """Describe a layer that went as a whole, because its branch is one constant."""
    return LayerChange(
        layer=weight.rpartition(".")[0] or weight,
        weight=weight,
        shape_before=shape,
        shape_after=(0, *shape[1:]),
        dead_filters=shape[0],
        dead_inputs=0,
        removed_filters=shape[0],
        removed_inputs=0,
        kept=0,
    )


def _weights(plan: Plan) -> list[str]:
    """Return the weights of layers, in the order of the program."""
    layers = [use for use in plan.trace.uses if operator(use.node) in LAYERS | {aten.embedding}]
    return list(dict.fromkeys(use.tensor for use in layers if use.tensor == str(argument(use.node, "weight").target)))


def _layer(plan: Plan, facts: Facts, held: Holders, weight: str, align: int) -> LayerChange:
    shape = list(tensor_of(plan.trace.module, weight).shape)
    outputs = _use(plan, weight, "filter") or _use(plan, weight, "follower")
    inputs = _use(plan, weight, "consumer")
    after = list(shape)
    for use in (outputs, inputs):
        if use is not None:
            after[use.axis] = len(plan.stay(use))
    grouped = _use(plan, weight, "grouped")
    if grouped is not None:
        parts = grouped.slots.reshape(argument(grouped.node, "groups"), -1)
        after[1] = max(len(plan.kept(part)) for part in parts)
    rows, columns = _zero_lines(plan, outputs), _zero_lines(plan, inputs)
    stay = _staying(plan, outputs, rows)
    reasons = (_reason(plan, facts, held, slots, align) for slots in (stay, _staying(plan, inputs, columns)))
    return LayerChange(
        layer=weight.rpartition(".")[0] or weight,
        weight=weight,
        shape_before=tuple(shape),
        shape_after=tuple(after),
        dead_filters=int(rows.sum()),
        dead_inputs=int(columns.sum()),
        removed_filters=shape[outputs.axis] - after[outputs.axis] if outputs else 0,
        removed_inputs=shape[inputs.axis] - after[inputs.axis] if inputs else 0,
        kept=len(stay),
        reason=next(filter(None, reasons), ""),
    )


def _use(plan: Plan, weight: str, role: str) -> Use | None:
    return next((use for use in plan.trace.uses if use.tensor == weight and use.role == role), None)


def _zero_lines(plan: Plan, use: Use | None) -> Mask:
    """Return which entries along the axis of a use are zero throughout."""
    if use is None:
        return np.zeros(0, dtype=bool)
    zero = tensor_of(plan.trace.module, use.tensor).detach() == 0
    lines: Mask = zero.movedim(use.axis, 0).flatten(1).all(1).numpy()
    return lines


def _staying(plan: Plan, use: Use | None, lines: Mask) -> Ids:
    """Return the slots of zero lines that are not removed."""
    if use is None:
        return np.zeros(0, dtype=np.int64)
    slots = plan.roots[use.slots[lines]]
    return slots[~plan.removed[slots]]


def _reason(plan: Plan, facts: Facts, held: Holders, slots: Ids, align: int) -> str:
    if len(slots) == 0:
        return ""
    blocked = [int(slot) for slot in slots if not plan.fillers[slot]]
    if blocked:
        told = plan.blocked.get(blocked[0], "another reader of the channel needs it")
        if VARIES in told:  # by what, is asked only for the few that are told
            told = told.replace(VARIES, what_varies(plan.trace, facts, plan.roots, blocked[0], held))
        return told
    return f"it fills the width to a multiple of {align}" if align > 1 else "a layer keeps at least one channel"


def _nothing_removed(layers: tuple[LayerChange, ...]) -> str:
    if any(layer.shape_before != layer.shape_after for layer in layers):
        return ""
    asked = [layer for layer in layers if layer.dead_filters or layer.dead_inputs]
    if not asked:
        return "no filter and no input column of any layer is zero throughout"
    first = next((layer for layer in asked if layer.reason), asked[0])
    return f"{first.layer}: {first.reason or 'its zero filters are all needed'}"
