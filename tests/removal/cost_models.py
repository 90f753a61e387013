"""Cost models under which plans do what they rarely do where times count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pdp_export.removal.costs import LayerWork, Macs


@dataclass(frozen=True)
class NoGathers(Macs):
    """Multiply-accumulates, and no gather: nothing is computed twice."""

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        return [
            cost + 1e12 * len(list(work.copies)) for cost, work in zip(super().costs(options), options, strict=True)
        ]


@dataclass(frozen=True)
class NoSums(NoGathers):
    """Nor any sum."""

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        return [cost + 1e12 * len(work.parts) for cost, work in zip(super().costs(options), options, strict=True)]
