"""What channel removal did, layer by layer, and why it left the rest."""

from __future__ import annotations

from collections.abc import Mapping

from pdp_export.results import Record, Skipped


class LayerChange(Record):
    """One layer.

    `dead_filters` and `dead_inputs` are rows and columns of its weight that are zero throughout (what
    was asked for); `removed_*` is what went, which can be more: a filter that nobody reads goes too.
    `kept` counts dead filters that stay, `reason` says why the first of them does.
    """

    layer: str
    weight: str
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...]
    dead_filters: int
    dead_inputs: int
    removed_filters: int
    removed_inputs: int
    kept: int
    reason: str = ""


class LayerChoice(Record):
    """A layer that could work on fewer channels than its neighbours hold.

    `costs` are in the unit that the report names as `cost_of`, by option: "as it is", "select" (a gather in front),
    "expand" (one behind), or both. For a layer's result that others read different channels of: "shared", "recompute"
    (a copy of the layer for each), "classes" (sums over classes of its channels).
    """

    layer: str
    costs: Mapping[str, float]
    chosen: str


class RemovalReport(Record):
    """The whole program.

    `macs` are dense multiply-accumulates for one example; before and after both have BatchNorm folded.
    `proof_error` is the largest output difference relative to max|y|, in float64, over `proof_cases` inputs.
    `plans` are the times of whole networks in microseconds, by plan, where several were compared; `plan` is the one
    that was carried out.
    `runtime_proof` says how far the result is from the model in the target's runtime, in float32; empty: no target.
    `nothing_removed` is empty, or says why no channel went.
    """

    layers: tuple[LayerChange, ...]
    align: int
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    skipped: tuple[Skipped, ...]
    proof_error: float
    proof_limit: float
    proof_cases: int
    runtime_proof: str = ""
    nothing_removed: str = ""
    cost_of: str = ""
    choices: tuple[LayerChoice, ...] = ()
    plan: str = ""
    plans: Mapping[str, float] = {}

    @property
    def removed_filters(self) -> int:
        """Filters that went, over all layers."""
        return sum(layer.removed_filters for layer in self.layers)

    @property
    def summary(self) -> str:
        """Return one line: layers touched, parameters, multiply-accumulates."""
        if self.nothing_removed:
            return f"nothing removed: {self.nothing_removed}"
        touched = sum(layer.shape_before != layer.shape_after for layer in self.layers)
        return (
            f"{touched} of {len(self.layers)} layers, "
            f"{self.parameters_before:,} -> {self.parameters_after:,} parameters, "
            f"{self.macs_before:,} -> {self.macs_after:,} multiply-accumulates"
        )
