"""One row per weight tensor: shape before and after, zeros asked and achieved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from pdp_export.measurements import LayerSparsity

_MATRIX = 2


def layer_table(
    dense: nn.Module,
    hardened: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    statistics: Sequence[Mapping[str, Any]],
) -> tuple[LayerSparsity, ...]:
    """Return the rows in the order of the network.

    Args:
        dense: The network, for the kind of each layer.
        hardened: State dict with exact zeros, shapes as in the dense model.
        after: Weights of the removed program, by their original names.
        statistics: `MaskStatistics` of every mask as JSON, for what was asked.
    """
    asked = {name: item["asked"] for item in statistics for name in item["parameters"]}
    kinds = {f"{name}.weight": type(module).__name__ for name, module in dense.named_modules()}
    return tuple(
        _row(name, kinds.get(name, ""), tensor, after.get(name), asked.get(name))
        for name in dense.state_dict()
        if (tensor := hardened.get(name)) is not None and tensor.dim() >= _MATRIX and tensor.is_floating_point()
    )


def _row(name: str, kind: str, before: Tensor, after: Tensor | None, asked: float | None) -> LayerSparsity:
    nonzero = int(before.count_nonzero()) if after is None else int(after.count_nonzero())
    return LayerSparsity(
        layer=name.removesuffix(".weight"),
        kind=kind,
        shape_before=tuple(before.shape),
        shape_after=tuple(after.shape) if after is not None else None,
        asked=asked,
        achieved=1 - nonzero / prod(before.shape),
    )
