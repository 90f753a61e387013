"""What a recipe's pruning section means for the Pruner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pdp_export.pruning.methods import preset
from pdp_export.pruning.patterns import make_pattern
from pdp_export.pruning.schedule import AccuracyRule, Schedule

if TYPE_CHECKING:
    from pdp_export.recipe_pruning import PruningSection

_SAME = (
    "ignore", "preset", "temperature", "allocation", "budget", "costs", "max_layer_sparsity", "refresh_every",
    "reallocate", "prune_depthwise", "prune_first", "prune_last",
)  # fmt: skip


def arguments(section: PruningSection) -> dict[str, Any]:
    """Return the keyword arguments of `Pruner` that a recipe asks for."""
    warmup = section.warmup
    return {
        "pattern": make_pattern(
            section.pattern,
            section.sparsity,
            ties=section.ties,
            align=section.align,
            n=section.n,
            m=section.m,
            block=section.block,
        ),
        "schedule": Schedule(
            warmup if isinstance(warmup, float) else AccuracyRule(warmup.level, warmup.epochs),
            section.ramp_end,
            section.ramp or preset(section.preset, section.temperature).ramp,
        ),
        **{name: getattr(section, name) for name in _SAME},
    }
