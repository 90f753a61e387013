"""What the report says about each mask: how sharp it ended, how settled, and what is dangerous about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from pdp_export.measurements import Measurement

Unit = Literal["weights", "blocks", "channels"]


class MaskCurves(Measurement):
    """One mask over the epochs of pruning; one value at the end of each, named as in `MaskFigures`."""

    sparsity: tuple[float, ...]
    threshold: tuple[float, ...]
    sharpness: tuple[float, ...]
    fuzzy: tuple[float, ...]
    churn: tuple[float | None, ...]
    gain: tuple[float, ...]


class MaskFigures(Measurement):
    """The state of one mask at the end of pruning, and over the epochs.

    `size` counts what can be pruned, in units of `unit`; `asked` and `sparsity` are shares of it. `threshold`
    is t in the unit of the weights. `sharpness` is t^2 / tau (groups: std(s^2) / 10 tau), `fuzzy` the share
    with 0.05 < m < 0.95, `churn` the share of decisions that changed in the last epoch. `gain` is the
    largest slope at the threshold before any `clip`. `gap` tells whether pruned weights still took part in
    the trained network. `limits` holds the limit of each figure that can be a danger to this mask, `dangers`
    the names of those beyond it.
    """

    name: str
    unit: Unit
    size: int
    asked: float | None
    sparsity: float
    threshold: float
    sharpness: float
    fuzzy: float
    churn: float | None
    gain: float
    clip: float | None
    gap: bool
    limits: Mapping[str, float] = Field(default_factory=dict)
    dangers: tuple[str, ...] = ()
    curves: MaskCurves | None = None

    @property
    def fuzzy_of_kept(self) -> float:
        """Fuzzy weights as a share of the kept ones."""
        return of_kept(self.fuzzy, self.sparsity)

    @property
    def fuzzy_limit(self) -> float | None:
        """The limit of `fuzzy_of_kept`, None where fuzziness is no danger."""
        return of_kept(self.limits["fuzzy"], self.sparsity) if "fuzzy" in self.limits else None

    @property
    def severity(self) -> float:
        """How near the worst figure is to its limit: above 1 it is beyond."""
        parts = [0.0]
        for name, limit in self.limits.items():
            value = getattr(self, name)
            low, high = (value, limit) if name == "sharpness" else (limit, value)
            parts.append(high / low if low > 0 else float(high > 0))
        return max(parts)


def of_kept(share: float, sparsity: float) -> float:
    """Return a share of all weights as a share of the kept ones."""
    return share / (1 - sparsity) if sparsity < 1 else 0.0


def worst_first(masks: Iterable[MaskFigures]) -> list[MaskFigures]:
    """Return masks in danger before all others, then by their worst figure, then by churn."""
    return sorted(masks, key=lambda mask: (-len(mask.dangers), -mask.severity, -(mask.churn or 0.0)))
