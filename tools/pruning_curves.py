"""Draws the presets and the ramps for docs/pruning.md, from the code that prunes.

Run ``python tools/pruning_curves.py`` after a change of a method; tests/tools/test_pruning_curves.py tells when.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from pdp_export.pruning.methods import PRESET_NAMES, preset
from pdp_export.pruning.schedule import Schedule
from pdp_export.report.svg import DENSE, INK, PRUNED, SOFT, STYLE, inline

FOLDER = Path(__file__).parent.parent / "docs" / "img"
_KAPPAS = {  # tau / t^2 of the curves drawn, by preset; the others have no temperature
    "default": (1.0, 0.1, 0.001),
    "paper": (1.0, 1 / 9, 1 / 44),  # t = 0.01, 0.03 and 0.066 at tau = 1e-4
    "rectified": (2.0,),
}
_STYLE = {**STYLE, "font.size": 9, "axes.titlesize": 10}
_LINES = ((DENSE, "-"), (INK, "--"), (PRUNED, "-"))
_COLOURS = """<style>
  svg { --paper: #ffffff; --ink: #1b1f24; --dense: #8a94a0; --pruned: #0b6bcb; --line: #d0d7de;
        font: 10px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #0f1318; --ink: #e6eaef; --dense: #7d8894; --pruned: #58a6ff; --line: #333d48; }
  }
  .paper { fill: var(--paper); }
</style>
<rect class="paper" width="100%" height="100%" rx="6"/>
"""


@dataclass(frozen=True)
class Curve:
    """Gate and slope over |w| / t for one temperature."""

    label: str
    ratio: list[float]
    gate: list[float]
    slope: list[float]


def curves(name: str) -> list[Curve]:
    """Return the curves of a preset, computed by its own method at t = 1."""
    method = preset(name).method
    values = torch.linspace(0, 2.5, 501)
    threshold = torch.ones(())
    found = []
    for kappa in _KAPPAS.get(name, (1.0,)):
        tau = torch.tensor(kappa)
        gate = method.gate(values.clone(), threshold, tau)
        rate = method.slope(values.clone(), gate.clone(), threshold, tau)
        slope = torch.ones_like(gate) if rate is None else rate.float()
        label = f"t\N{SUPERSCRIPT TWO}/\N{GREEK SMALL LETTER TAU} = {1 / kappa:.4g}" if name in _KAPPAS else ""
        found.append(Curve(label, values.tolist(), gate.tolist(), slope.tolist()))
    return found


def preset_drawing(name: str) -> str:
    """Return gate and slope of a preset over |w| / t."""
    with mpl.rc_context(_STYLE):
        figure = _figure(7.2, 2.3)
        gate, slope = figure.subplots(1, 2)
        found = curves(name)
        for curve, (colour, style) in zip(found, _LINES[-len(found) :], strict=True):
            gate.plot(curve.ratio, curve.gate, style, color=colour, label=curve.label, linewidth=1.6)
            slope.plot(curve.ratio, curve.slope, style, color=colour, linewidth=1.6)
        for axes, title in ((gate, "gate: soft weight / weight"), (slope, "slope: what the gradient is multiplied by")):
            axes.axvline(1, color=SOFT, linewidth=1, zorder=0)
            axes.set_title(title)
            axes.set_xlabel("|w| / t")
            axes.set_ylim(-0.05, max(1.1, 1.05 * axes.get_ylim()[1]))
        if name in _KAPPAS:
            gate.legend(frameon=False, loc="lower right", fontsize=8.5)
        return _file(figure, f"Gate and slope of the preset {name} over |w| / t")


def ramp_drawing() -> str:
    """Return the share of the final ratio over the pruning epochs, for both ramps with their defaults."""
    with mpl.rc_context(_STYLE):
        figure = _figure(4.8, 2.2)
        axes = figure.subplots()
        for ramp, (colour, style) in zip(("linear", "cubic"), (_LINES[1], _LINES[2]), strict=True):
            schedule = Schedule(ramp=ramp)
            along = [step / 400 for step in range(401)]
            shares = [schedule.share(progress, 0.1) for progress in along]
            axes.plot(along, shares, style, color=colour, label=ramp, linewidth=1.6)
        axes.set_xlabel("share of the pruning epochs")
        axes.set_ylabel("share of the final ratio")
        axes.set_xticks([0.1, 0.75, 1], ["warmup 0.1", "ramp_end 0.75", "1"])
        axes.legend(frameon=False, loc="lower right", fontsize=8.5)
        return _file(figure, "The share of the final ratio over the pruning epochs, cubic and linear")


def drawings() -> dict[str, str]:
    """Return every drawing by its file name."""
    presets = {f"preset-{name.replace('_', '-')}.svg": preset_drawing(name) for name in PRESET_NAMES}
    return presets | {"ramps.svg": ramp_drawing()}


def _figure(width_in: float, height_in: float) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


def _file(figure: Figure, label: str) -> str:
    """Return the SVG file: with its own paper, so that it is readable on light and on dark pages."""
    width, height = figure.get_size_inches() * 72
    opened = str(inline(figure, label)).replace(
        "<svg ",
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width:g}" height="{height:g}" ',
        1,
    )
    return re.sub(r"(<svg [^>]*>)", lambda match: f"{match.group()}\n{_COLOURS}", opened, count=1).rstrip() + "\n"


def main() -> int:
    """Write every drawing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in drawings().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
