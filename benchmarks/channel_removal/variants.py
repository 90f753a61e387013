"""Which variants are measured, and what each is good for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.channel_removal import ours
from benchmarks.channel_removal.case import Case
from benchmarks.channel_removal.dialect import folded
from benchmarks.channel_removal.ours import Made
from benchmarks.channel_removal.rivals.naive import naive
from benchmarks.channel_removal.rivals.tied import tied, torch_pruning, torch_pruning16
from benchmarks.channel_removal.rivals.upscale import upscale, upscale16

Make = Callable[[Case], Made]

OURS = "ours"
UNCHANGED = ("dense", "again")
RIVALS = ("dense", "naive", "upscale", "union16", "upscale16")
"""The best of these is what ours must not fall behind."""
OTHER_FUNCTIONS = ("torch_pruning", "torch_pruning16", "tied")
"""These are not compared with the masked network."""
PER_RUNTIME = (OURS, "estimated", "tied")
"""These are made anew for each runtime."""


def variants(case: Case, runtime: str) -> dict[str, Make]:
    """Return the makers of all variants for a runtime, in the order of a round."""
    found: dict[str, Make] = {
        "dense": _dense,
        "again": _dense,  # the A/A control
        "naive": naive,
        "upscale": upscale,
        "upscale16": upscale16,
        "union16": ours.never(16),
        OURS: ours.planned(runtime),
        "estimated": ours.estimated(runtime),
        **policies(case.block),
    }
    if case.kind == "columns":
        found |= {"torch_pruning": torch_pruning, "torch_pruning16": torch_pruning16, "tied": tied(runtime)}
    return found


def _dense(case: Case) -> Made:
    return Made(folded(case.copy()))


def policies(block: int) -> Mapping[str, Make]:
    """Return the constant policies; ``union16`` is "never, 16" under its own name."""
    widths = sorted({1, block, 16})
    never = {f"never{width}": ours.never(width) for width in widths if width != 16}
    return never | {f"always{width}": ours.always(width) for width in widths}


def is_policy(name: str) -> bool:
    """Tell whether a variant does the same everywhere."""
    return name == "union16" or name.startswith(("never", "always"))
