"""A matplotlib drawing as one inline <svg> that follows the page's colours, light, dark and printed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib wants colours; these stand-ins become variables of the style sheet afterwards.
INK, DENSE, PRUNED, SOFT, FAIL = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    INK: "var(--ink)",
    DENSE: "var(--dense)",
    PRUNED: "var(--pruned)",
    SOFT: "var(--line)",
    FAIL: "var(--fail)",
}
STYLE: dict[Any, Any] = {
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


def render(
    draw: Callable[[Axes], None], height_in: float, label: str, titles: Mapping[str, str] | None = None
) -> Markup:
    """Return what `draw` puts on one pair of axes; the same drawing gives the same text.

    Args:
        draw: Called with the axes.
        height_in: Height in inches; the width is that of a card.
        label: What the figure shows, for those who do not see it.
        titles: Text shown under the pointer, by the gid of an artist (lower-case letters, digits and "-").
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        draw(figure.add_subplot())
        return inline(figure, label, titles)


def inline(figure: Figure, label: str, titles: Mapping[str, str] | None = None) -> Markup:
    """Return a figure as one <svg> element: scalable, labelled, ids unique on the page, colours from CSS."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;\"]*; ?", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{escape(label)}" \1>', text, count=1
    )
    text = re.sub(
        r'(<g|<path|<defs|<clipPath) id="(?:figure|patch|axes|text|matplotlib|xtick|ytick|line2d|legend)[^"]*"',
        r"\1",
        text,
    )
    text = re.sub(r"(\d\.\d\d)\d{2,}", r"\1", text)  # hundredths of a point are finer than any screen
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    for gid, title in (titles or {}).items():
        text = text.replace(f'<g id="{gid}">', f"<g><title>{escape(title)}</title>")
    return Markup(text)  # noqa: S704  drawn by matplotlib from numbers; label and titles are escaped above
