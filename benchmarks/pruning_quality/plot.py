"""One panel per comparison: each method's mean and interval, PDP set apart by colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLOURS = {"pdp": "#c0392b", "rival": "#34495e", "outside": "#7f8c8d", "dense": "#27ae60"}
_COLUMNS = 2


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Write the plot; without any comparison nothing is written."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    items = [item for item in summary["comparisons"] if item["pattern"] != "dense" and item["methods"]]
    if not items:
        return
    lines = -(-len(items) // _COLUMNS)
    figure, axes = plt.subplots(lines, _COLUMNS, figsize=(11, 3.4 * lines), squeeze=False, layout="constrained")
    for axis, item in zip(axes.flat, items, strict=False):
        _panel(axis, item)
    for axis in axes.flat[len(items) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, item: Mapping[str, Any]) -> None:
    for place, method in enumerate(reversed(item["methods"])):
        hard, colour = method["hard"], _COLOURS[method["family"]]
        half = 0.0 if hard["low"] is None else hard["high"] - hard["mean"]
        axis.errorbar(hard["mean"], place, xerr=half, fmt="o", color=colour, capsize=3, markersize=5)
        values = list(method["values"].values())
        axis.plot(values, [place] * len(values), "|", color=colour, alpha=0.6, markersize=9)
    axis.set_yticks(range(len(item["methods"])), [method["method"] for method in reversed(item["methods"])], fontsize=8)
    axis.set_title(f"{item['task']}, {item['pattern']} {item['asked']:g}, {item['stage']}", fontsize=9)
    axis.set_xlabel("test accuracy, % (mean, 95 % interval, every seed)", fontsize=8)
    axis.grid(axis="x", alpha=0.3)
