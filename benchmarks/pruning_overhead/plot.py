"""The ratios to dense training, one panel per network: time with its interval, and memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIME_GOAL, MEMORY_GOAL = 1.05, 1.10


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot of ``result["subjects"]``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    subjects = result["subjects"]
    figure, axes = plt.subplots(len(subjects), 1, figsize=(9, 3.2 * len(subjects)), squeeze=False, layout="constrained")
    for axis, (name, item) in zip(axes.flat, subjects.items(), strict=True):
        _panel(axis, name, item)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, name: str, item: Mapping[str, Any]) -> None:
    arms = [arm for arm in item["time"]["arms"] if arm != "dense"][::-1]
    for place, arm in enumerate(arms):
        time = item["time"]["arms"][arm]
        error = [[time["ratio"] - time["low"]], [time["high"] - time["ratio"]]]
        axis.errorbar(time["ratio"], place, xerr=error, fmt="o", color="#c0392b", capsize=3)
        if arm in item["memory"]:
            axis.plot(item["memory"][arm]["ratio"], place, "s", color="#2980b9", markersize=5)
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.axvline(TIME_GOAL, color="#c0392b", linestyle=":", linewidth=1)
    axis.axvline(MEMORY_GOAL, color="#2980b9", linestyle=":", linewidth=1)
    axis.set_yticks(range(len(arms)), arms, fontsize=8)
    axis.set_title(
        f"{name}, batch {item['time']['batch']}: ratio to dense (dots: time, squares: peak memory)", fontsize=9
    )
    axis.grid(axis="x", alpha=0.3)
