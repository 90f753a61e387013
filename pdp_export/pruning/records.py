"""What pruning tells about itself; all of it travels as JSON."""

from __future__ import annotations

from pdp_export.results import Record


class MaskStatistics(Record):
    """The state of one mask.

    `asked` and `current` are shares of `size` (weights, blocks or channels). `threshold` is t in units of
    the scores. `sharpness` is t^2 / tau for weights and std(s^2) / 10 tau for groups; under 100 the
    mask is still soft. `fuzzy` is the share with 0.05 < m < 0.95. `gain` is the largest derivative
    at the boundary before any clip, 1/2 + t^2 / (2 tau), and `clip` its limit (None: no clip).
    `churn` is the share of kept-or-pruned decisions that changed since statistics were last taken
    (None the first time). `gap` tells whether pruned weights still take part in the soft network;
    where they do not, sharpness and fuzziness are no danger.
    """

    name: str
    parameters: tuple[str, ...]
    size: int
    asked: float | None
    current: float
    threshold: float
    sharpness: float
    gain: float
    clip: float | None
    gap: bool
    fuzzy: float
    churn: float | None


class HardenedMask(Record):
    """One hardened mask: `pruned` of `size` weights or channels are exact zeros.

    `gap` is the largest difference between the soft mask that was trained and the factor that is
    deployed: the largest soft value that was cut to zero, over 0.5 only among equal scores.
    """

    name: str
    parameters: tuple[str, ...]
    size: int
    pruned: int
    gap: float


class HardenReport(Record):
    """What `Pruner.harden` wrote. `zeros` and `elements` count the weights of all masked parameters."""

    masks: tuple[HardenedMask, ...]
    zeros: int
    elements: int
    warnings: tuple[str, ...] = ()

    @property
    def asked(self) -> float:
        """Pruned share of what could be pruned (weights or channels)."""
        return sum(mask.pruned for mask in self.masks) / sum(mask.size for mask in self.masks)

    @property
    def sparsity(self) -> float:
        """Zero share over all masked parameters."""
        return self.zeros / self.elements

    @property
    def gap(self) -> float:
        """The largest difference between a trained and a deployed mask."""
        return max(mask.gap for mask in self.masks)
