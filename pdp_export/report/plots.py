"""The figures of one run: bytes, latencies, training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from pdp_export.measurements import LatencyResult, SizeResult
from pdp_export.report import formatting
from pdp_export.report.run_report import EpochRecord
from pdp_export.report.svg import DENSE, INK, PRUNED, SOFT, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    return render(draw, 0.36 * len(steps) + 0.2, label)


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
    return render(draw, 1.75, label)


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

    return render(draw, 2.6, "Training: " + ", ".join(name for name, *_ in drawn) + " per epoch")


def _hidden_note(hidden: int) -> str:
    return f"; not drawn: {hidden} slower" if hidden else ""


def _phase_note(history: Sequence[EpochRecord]) -> str:
    phases = list(dict.fromkeys(record.phase for record in history))
    return f" ({', then '.join(phases)})" if len(phases) > 1 else ""
