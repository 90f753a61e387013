"""The figures of the report as inline SVG that follows the page's colours, light, dark and printed."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from pdp_export.measurements import LatencyResult, SizeResult
from pdp_export.report import formatting
from pdp_export.report.run_report import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib wants colours; these stand-ins become variables of the style sheet afterwards.
INK, DENSE, PRUNED, SOFT = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "var(--ink)", DENSE: "var(--dense)", PRUNED: "var(--pruned)", SOFT: "var(--line)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pdp-export",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}
_WIDTH_IN = 4.6
_SHOWN_QUANTILE = 0.98
_MAX_DOTS = 600


def size_steps(result: SizeResult) -> Markup:
    """Bars of the bytes dense, after removing channels, after encoding zeros, and zipped."""
    named = (
        ("dense", result.dense_bytes, DENSE),
        ("pruned, stored densely", result.stored_densely_bytes, PRUNED),
        ("pruned file", result.pruned_bytes, PRUNED),
        ("dense, gzip", result.dense_gzip_bytes, DENSE),
        ("pruned, gzip", result.pruned_gzip_bytes, PRUNED),
    )
    steps = [(name, value, colour) for name, value, colour in named if value is not None]

    def draw(axes: Axes) -> None:
        values = [value for _, value, _ in steps]
        axes.barh(range(len(steps)), values, color=[colour for _, _, colour in steps], height=0.62)
        for row, value in enumerate(values):
            axes.text(value + 0.015 * max(values), row, formatting.size(value), va="center")
        axes.set_yticks(range(len(steps)), [name for name, _, _ in steps])
        axes.set_xlim(0, 1.25 * max(values))
        axes.set_xticks([])
        axes.spines[["bottom"]].set_visible(False)
        axes.invert_yaxis()

    label = "Bytes step by step: " + ", ".join(f"{name} {formatting.size(value)}" for name, value, _ in steps)
    return _render(draw, 0.36 * len(steps) + 0.2, label)


def latency_samples(result: LatencyResult) -> Markup:
    """Every measured run of both arms as a dot, with the box of quartiles and the median."""
    dense, pruned = (np.asarray(arm.samples_ms).ravel() for arm in (result.dense, result.pruned))
    limit = 1.1 * max(float(np.quantile(samples, _SHOWN_QUANTILE)) for samples in (dense, pruned))
    hidden = int(np.count_nonzero(dense > limit) + np.count_nonzero(pruned > limit))

    def draw(axes: Axes) -> None:
        jitter = np.random.default_rng(0)
        for row, (samples, colour) in enumerate(((dense, DENSE), (pruned, PRUNED))):
            dots = samples[:: -(-samples.size // _MAX_DOTS)]
            axes.scatter(
                dots, row + jitter.uniform(-0.26, 0.26, dots.size), s=6, color=colour, alpha=0.45, linewidths=0
            )
            axes.boxplot(
                samples, positions=[row], orientation="horizontal", widths=0.62, showfliers=False, whis=(10, 90),
                boxprops={"color": INK}, medianprops={"color": INK, "linewidth": 2},
                whiskerprops={"color": INK}, capprops={"color": INK},
            )  # fmt: skip
        axes.set_yticks([0, 1], ["dense", "pruned"])
        axes.set_ylim(1.55, -0.55)
        axes.set_xlim(0, limit)
        axes.set_xlabel("ms per run" + _hidden_note(hidden))

    label = f"Latency: dense median {result.dense.p50_ms:.3g} ms, pruned median {result.pruned.p50_ms:.3g} ms"
    return _render(draw, 1.75, label)


def training_curves(history: Sequence[EpochRecord]) -> Markup:
    """The validation metric and the share of zeros over the epochs."""
    from matplotlib.ticker import MaxNLocator

    steps = range(1, len(history) + 1)
    starts = [index for index in steps[1:] if history[index - 1].phase != history[index - 2].phase]
    curves = (
        ("validation metric", [record.validation_metric for record in history], DENSE, "-"),
        ("sparsity asked", [record.sparsity_target for record in history], INK, ":"),
        ("sparsity reached", [record.sparsity for record in history], PRUNED, "-"),
    )
    drawn = [curve for curve in curves if any(value is not None for value in curve[1])]

    def draw(axes: Axes) -> None:
        for name, values, colour, style in drawn:
            heights = [np.nan if value is None else value for value in values]
            axes.plot(steps, heights, style, color=colour, label=name, marker="o", markersize=3)
        if all(0 <= value <= 1 for _, values, _, _ in drawn for value in values if value is not None):
            axes.set_ylim(-0.02, 1.02)
        for start in starts:
            axes.axvline(start - 0.5, color=SOFT, linewidth=1)
        axes.set_xlabel("epoch" + _phase_note(history))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8.5)

    return _render(draw, 2.6, "Training: " + ", ".join(name for name, *_ in drawn) + " per epoch")


def _hidden_note(hidden: int) -> str:
    return f"; not drawn: {hidden} slower" if hidden else ""


def _phase_note(history: Sequence[EpochRecord]) -> str:
    phases = list(dict.fromkeys(record.phase for record in history))
    return f" ({', then '.join(phases)})" if len(phases) > 1 else ""


def _render(draw: Any, height_in: float, label: str) -> Markup:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        draw(figure.add_subplot())
        return _inline(figure, label)


def _inline(figure: Figure, label: str) -> Markup:
    """Return the figure as one <svg> element: scalable, labelled, ids unique on the page, colours from CSS."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;\"]*; ?", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{escape(label)}" \1>', text, count=1
    )
    text = re.sub(
        r'(<g|<path|<defs|<clipPath) id="(?:figure|patch|axes|text|matplotlib|xtick|ytick|line2d)[^"]*"', r"\1", text
    )
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return Markup(text)  # noqa: S704  drawn by matplotlib from numbers; the label is escaped above
