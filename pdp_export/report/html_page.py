"""report.html: one self-contained file to mail. No script, no network; everything from the run is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pdp_export import files
from pdp_export.measurements import ClassAccuracy, TargetResult
from pdp_export.report import formatting, mask_plots, plots
from pdp_export.report.mask_figures import worst_first
from pdp_export.report.run_report import RunReport
from pdp_export.results import Verdict

FILE_NAME = "report.html"
MAX_CLASSES = 20
MAX_OPEN_CHOICES = 10
_FOLDER = Path(__file__).parent
_FILTERS = ("accuracy_change", "accuracy_interval", "interval", "latency_word", "shape", "verdict", "worst_error")
_FIGURES = ("count", "error", "milliseconds", "number", "percent", "points", "ratio", "size")


def write(report: RunReport, folder: Path) -> Path:
    """Write report.html into the run directory, atomically, and return its path."""
    path = folder / FILE_NAME
    files.write_text(path, render(report))
    return path


def render(report: RunReport) -> str:
    """Return the page as text; the same report gives the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update({name: getattr(formatting, name) for name in _FILTERS})
    environment.filters.update({name: _unbroken(getattr(formatting, name)) for name in _FIGURES})
    return environment.get_template("page.html.jinja").render(_view(report))


def headline(report: RunReport) -> str:
    """Return the verdict over all files in one sentence, without a word that was not measured."""
    if not report.targets:
        return "This run wrote no file, so nothing was proven about one."
    total = len(report.targets)
    passed = sum(target.verdict is Verdict.PASS for target in report.targets)
    if report.gates:
        parts = [f"{passed} of {total} files pass every check and every gate that is set"]
    else:
        parts = [f"{passed} of {total} files pass every check"]
        parts.append("no gate is set, so accuracy and latency are only reported")
    for kind, words in (
        (Verdict.FAIL, "fail"),
        (Verdict.INCONCLUSIVE, "undecided"),
        (Verdict.NOT_RUN, "not fully checked here"),
    ):
        names = [target.title or target.target for target in report.targets if target.verdict is kind]
        if names:
            parts.append(f"{words}: {', '.join(names)}")
    return "; ".join(parts) + "."


def _unbroken(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """Keep a figure and its unit on one line."""
    return lambda value: function(value).replace(" ", "\N{NO-BREAK SPACE}").replace("e-", "e\N{NON-BREAKING HYPHEN}")


def _view(report: RunReport) -> dict[str, Any]:
    targets = report.targets
    flips = [t for t in targets if t.accuracy is not None and t.accuracy.lost is not None]
    rows = _class_rows(flips)
    masks = worst_first(report.masks)
    return {
        "report": report,
        "headline": headline(report),
        "not_run": Verdict.NOT_RUN,
        "style": Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),  # noqa: S704  our own file
        "gates": report.gates or [gate for target in targets for gate in target.gates],
        "sizes": [(t, plots.size_steps(t.size)) for t in targets if t.size is not None],
        "latencies": [(t, plots.latency_samples(t.latency)) for t in targets if t.latency is not None],
        "flips": flips,
        "classes": rows[:MAX_CLASSES],
        "classes_hidden": max(len(rows) - MAX_CLASSES, 0),
        "history_plot": plots.training_curves(report.history) if report.history else None,
        "masks": masks,
        "endangered": [mask.name for mask in masks if mask.dangers],
        "mask_plots": mask_plots.mask_curves(masks),
        "named_masks": [mask for mask in masks if mask.curves is not None][: mask_plots.NAMED],
        "max_open_choices": MAX_OPEN_CHOICES,
        "lines_hidden": max(len(masks) - mask_plots.MAX_LINES, 0),
        "recipe": yaml.safe_dump(dict(report.recipe), sort_keys=False, allow_unicode=True),
    }


def _class_rows(flips: Sequence[TargetResult]) -> list[tuple[ClassAccuracy, ...]]:
    """Rows of one class over all targets, the class that lost most in any of them first."""
    columns = [target.accuracy.per_class for target in flips if target.accuracy is not None]
    if not columns or len({tuple(row.label for row in column) for column in columns}) != 1:
        return []
    rows = list(zip(*columns, strict=True))
    return sorted(rows, key=lambda row: -max(cell.drop for cell in row)) if len(rows) > MAX_CLASSES else rows
