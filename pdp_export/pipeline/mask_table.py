"""One row per mask: how it ended, what is dangerous about it, and its way there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pdp_export.pruning.records import MaskStatistics
from pdp_export.pruning.statistics import dangers, limits
from pdp_export.report.mask_figures import MaskCurves, MaskFigures, Unit

_UNITS: dict[str, Unit] = {"block": "blocks", "channel": "channels"}


def mask_table(history: Mapping[str, Any], pattern: str, one_shot: bool) -> tuple[MaskFigures, ...]:
    """Return the rows in the order of the network.

    Args:
        history: history.json of the prune stage: "layers" (`MaskStatistics` at the end) and "epochs", each with
            its own "layers".
        pattern: What was pruned.
        one_shot: Whether nothing was trained: kept weights are then deployed as they were, so that no soft
            mask and no slope can do harm.
    """
    final = [MaskStatistics.model_validate(item) for item in history["layers"]]
    epochs = [_by_name(record.get("layers", ())) for record in history["epochs"]]
    rows = [_row(row, _UNITS.get(pattern, "weights"), one_shot) for row in final]
    ways = [[epoch[row.name] for epoch in epochs if row.name in epoch] for row in final]
    return tuple(
        row.model_copy(update={"curves": _curves(way)}) if way else row for row, way in zip(rows, ways, strict=True)
    )


def _by_name(layers: Sequence[Mapping[str, Any]]) -> dict[str, MaskStatistics]:
    return {item["name"]: MaskStatistics.model_validate(item) for item in layers}


def _row(row: MaskStatistics, unit: Unit, one_shot: bool) -> MaskFigures:
    return MaskFigures(
        name=row.name,
        unit=unit,
        size=row.size,
        asked=row.asked,
        sparsity=row.current,
        threshold=row.threshold,
        sharpness=row.sharpness,
        fuzzy=row.fuzzy,
        churn=row.churn,
        gain=row.gain,
        clip=row.clip,
        gap=row.gap,
        limits={} if one_shot else limits(row),
        dangers=() if one_shot else dangers(row),
    )


def _curves(epochs: Sequence[MaskStatistics]) -> MaskCurves:
    return MaskCurves(
        sparsity=tuple(row.current for row in epochs),
        threshold=tuple(row.threshold for row in epochs),
        sharpness=tuple(row.sharpness for row in epochs),
        fuzzy=tuple(row.fuzzy for row in epochs),
        churn=tuple(row.churn for row in epochs),
        gain=tuple(row.gain for row in epochs),
    )
