"""Accuracy over latency: every network a dot, every kind a line through its means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLOURS = {"dense": "#2c3e50", "free": "#2980b9", "stream": "#27ae60", "aligned": "#c0392b"}


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Write the plot; without any point nothing is written."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    if not summary["points"]:
        return
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for kind, colour in _COLOURS.items():
        points = sorted(
            (point for point in summary["points"] if point["kind"] == kind),
            key=lambda point: point["latency_ms"]["mean"],
        )
        if not points:
            continue
        for point in points:
            axis.plot(*zip(*point["values"], strict=True), ".", color=colour, alpha=0.5)
        means = [(point["latency_ms"]["mean"], point["accuracy"]["mean"]) for point in points]
        axis.plot(*zip(*means, strict=True), "o-", color=colour, label=kind)
    axis.set_xlabel(f"latency in ONNX Runtime after removal, ms (CPU time, 1 thread, batch {summary['batch']})")
    axis.set_ylabel("test accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
