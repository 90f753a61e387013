"""One small plot per figure of the masks, over the epochs of pruning, with a line for every mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pdp_export.report import formatting
from pdp_export.report.mask_figures import MaskCurves, MaskFigures, of_kept
from pdp_export.report.svg import DENSE, FAIL, PRUNED, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 3  # masks drawn so that they can be told apart
MAX_LINES = 60
_MAX_POINTS = 80
_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # solid, dashed, dotted: as in the style sheet
_NEAR = 0.4  # a limit is drawn on a linear axis when the figure comes this near


@dataclass(frozen=True)
class Panel:
    """One figure: how it is read from a mask's curves, and how its axis looks."""

    key: str
    title: str
    values: Callable[[MaskCurves], Sequence[float | None]]
    limit: Callable[[MaskFigures], float | None]
    log: bool = False
    percent: bool = False
    soft_only: bool = False

    def text(self, value: float) -> str:
        """Return a value as the axis writes it."""
        return f"{100 * value:.3g} %" if self.percent else formatting.number(value)


_PANELS = (
    Panel("t", "threshold t", lambda c: c.threshold, lambda _: None),
    Panel(
        "sharpness", "sharpness t\N{SUPERSCRIPT TWO} / \N{GREEK SMALL LETTER TAU}", lambda c: c.sharpness,
        lambda m: m.limits.get("sharpness"), log=True, soft_only=True,
    ),
    Panel(
        "fuzzy", "fuzzy, of the kept",
        lambda c: [of_kept(*pair) for pair in zip(c.fuzzy, c.sparsity, strict=True)],
        lambda m: m.fuzzy_limit, percent=True, soft_only=True,
    ),
    Panel("churn", "decisions changed in the epoch", lambda c: c.churn, lambda _: None, percent=True),
    Panel("gain", "unclipped gain at the threshold", lambda c: c.gain, lambda m: m.limits.get("gain"), log=True,
          soft_only=True),
)  # fmt: skip


def mask_curves(masks: Sequence[MaskFigures]) -> list[tuple[str, Markup]]:
    """Return (title, drawing) for each figure that says something about these masks, worst mask first.

    The first `NAMED` masks are set apart, at most `MAX_LINES` are drawn; masks without curves are left out.
    """
    drawn = [mask for mask in masks if mask.curves is not None][:MAX_LINES]
    panels = [panel for panel in _PANELS if drawn and (not panel.soft_only or any(mask.gap for mask in drawn))]
    return [(panel.title, _panel(panel, drawn)) for panel in panels]


def _panel(panel: Panel, masks: Sequence[MaskFigures]) -> Markup:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    lines = [(mask, *_points(panel, mask)) for mask in masks]
    limits = {limit for mask in masks if (limit := panel.limit(mask)) is not None}

    def draw(axes: Axes) -> None:
        for index, (_, epochs, values) in reversed(list(enumerate(lines))):
            axes.plot(epochs, values, gid=_gid(panel, index), **_look(masks[index], index, len(values)))
        if panel.log:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        _draw_limit(axes, panel, limits)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.text(value)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch of pruning")
        axes.set_xlim(0.8, max(epochs[-1] for _, epochs, _ in lines) + 0.2)

    titles = {_gid(panel, index): _title(panel, mask, values) for index, (mask, _, values) in enumerate(lines)}
    return render(draw, 2.2, f"{panel.title} over the epochs of pruning, a line per mask", titles)


def _points(panel: Panel, mask: MaskFigures) -> tuple[list[int], list[float]]:
    """Return epochs and values of one line; NaN before the mask prunes anything."""
    curves = mask.curves
    if curves is None:
        return [], []
    values = [
        float("nan") if value is None or share == 0 else value
        for value, share in zip(panel.values(curves), curves.sparsity, strict=True)
    ]
    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MAX_POINTS)).round().astype(int)).tolist()
    return [index + 1 for index in chosen], [values[index] for index in chosen]


def _look(mask: MaskFigures, index: int, points: int) -> dict[str, Any]:
    if index >= NAMED:
        return {"color": FAIL if mask.dangers else DENSE, "linewidth": 0.9, "alpha": 0.55, "marker": _marker(points)}
    colour = FAIL if mask.dangers else PRUNED
    return {"color": colour, "linewidth": 1.8, "linestyle": _STYLES[index], "marker": _marker(points)}


def _marker(points: int) -> str | None:
    return "o" if points == 1 else None


def _draw_limit(axes: Axes, panel: Panel, limits: set[float]) -> None:
    """Draw the limit that most easily is broken; far from it a linear axis keeps to the figures."""
    if not limits:
        return
    limit = max(limits) if panel.key == "sharpness" else min(limits)
    axes.set_title(f"limit {panel.text(limit)}", loc="right", fontsize=9, color=FAIL)
    if panel.log or axes.get_ylim()[1] >= _NEAR * limit:
        axes.set_ylim(top=max(axes.get_ylim()[1], 1.2 * limit))
        axes.axhline(limit, color=FAIL, linewidth=1, linestyle=(0, (2, 2)))


def _title(panel: Panel, mask: MaskFigures, values: Sequence[float]) -> str:
    last = values[-1] if values and not np.isnan(values[-1]) else None
    return mask.name if last is None else f"{mask.name}: {panel.text(last)}"


def _gid(panel: Panel, index: int) -> str:
    return f"mask-{panel.key}-{index}"
