"""One panel per runtime and mask: every variant's time over dense, and how planning grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.channel_removal.plan import COMPARED, MASKS
from benchmarks.channel_removal.subjects import NETS

_STYLES = {
    "naive": ("#7f8c8d", "v"),
    "upscale": ("#2980b9", "s"),
    "upscale16": ("#8e44ad", "s"),
    "union16": ("#27ae60", "^"),
    "ours": ("#c0392b", "o"),
    "torch_pruning16": ("#bdc3c7", "_"),
}


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Write the plot; without any cell nothing is written."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    if not summary["cells"]:
        return
    figure, axes = plt.subplots(len(MASKS), len(COMPARED), figsize=(12, 3.2 * len(MASKS)), layout="constrained")
    for line, (kind, share) in enumerate(MASKS):
        for column, runtime in enumerate(COMPARED):
            cells = {
                item["net"]: item
                for item in summary["cells"]
                if (item["kind"], item["ratio"], item["runtime"]) == (kind, share, runtime)
            }
            axis = axes[line][column]
            _panel(axis, cells)
            axis.set_title(f"{runtime}, {share:.0%} of {kind} dead: time over dense", fontsize=9)
    axes[0][0].legend(fontsize=7, ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, cells: Mapping[str, Any]) -> None:
    for shift, (name, (colour, marker)) in enumerate(_STYLES.items()):
        places, values, errors = [], [], ([], [])  # type: ignore[var-annotated]
        for place, net in enumerate(NETS):
            found = cells.get(net, {}).get("variants", {}).get(name, {}).get("over_dense")
            if found is not None:
                places.append(place + 0.1 * (shift - len(_STYLES) / 2))
                values.append(found["ratio"])
                errors[0].append(found["ratio"] - found["low"])
                errors[1].append(found["high"] - found["ratio"])
        axis.errorbar(places, values, yerr=errors, fmt=marker, color=colour, label=name, capsize=2, markersize=5)
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(NETS)), list(NETS), fontsize=7)
    axis.grid(axis="y", alpha=0.3)
