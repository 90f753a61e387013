"""The closing table in the terminal, and several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pdp_export.measurements import TargetResult
from pdp_export.report import formatting
from pdp_export.report.html_page import headline
from pdp_export.report.run_report import RunReport
from pdp_export.results import Verdict

STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.NOT_RUN: "bold",
}
_MAX_NOTES = 6


def closing(report: RunReport, run_directory: Path) -> RenderableType:
    """Return what a run ends with: verdict, one line per target, what to know, what to type next.

    At most 20 lines for four targets; `run_directory` is shown as the user typed it.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("target", no_wrap=True)
    for name in ("size", "smaller", "accuracy", "max err", "p50", "p50 ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for target in report.targets:
        table.add_row(target.target, *_cells(target), _verdict(target.verdict))
    return Group(
        Text.assemble(_verdict(report.verdict), f"  {report.name}{_one_shot(report)}: ", headline(report)),
        *([table] if report.targets else []),
        *_hardening(report),
        *_notes(report),
        _line(f"warnings: {len(report.warnings)}; details: {run_directory / 'report.html'}"),
        *(_line(f"  pdp-export {command}", style="dim") for command in _next_commands(report, run_directory)),
    )


def compare(reports: Sequence[RunReport], folders: Sequence[Path]) -> RenderableType:
    """Return several runs side by side: per target the dense file, then the file of every run.

    A run is named by its recipe, or by its folder as the user typed it where several have the same name.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("target", no_wrap=True)
    table.add_column("run", no_wrap=True)
    for name in ("size", "accuracy", "change", "p50", "p50 ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True, min_width=7)
    labels = _labels([report.name for report in reports], folders)
    names = dict.fromkeys(target.target for report in reports for target in report.targets)
    for name in names:
        found = [
            (label, target)
            for label, report in zip(labels, reports, strict=True)
            for target in report.targets
            if target.target == name
        ]
        table.add_row(escape(name), "dense", *_dense_cells(found[0][1]), "", end_section=False)
        for label, target in found:
            table.add_row("", escape(label), *_run_cells(target), _verdict(target.verdict))
    return table


def _labels(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    if len(set(names)) == len(names):
        return _without_common_start(names)
    return [str(folder) if names.count(name) > 1 else name for name, folder in zip(names, folders, strict=True)]


def _without_common_start(names: Sequence[str]) -> list[str]:
    """Cut the words that all names begin with: digits-channel, digits-unstructured -> channel, unstructured."""
    words = [name.split("-") for name in names]
    common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False)))
    return ["-".join(parts[common:]) or name for parts, name in zip(words, names, strict=True)]


def _cells(target: TargetResult) -> list[str | Text]:
    size, latency = target.size, target.latency
    return [
        formatting.size(size.pruned_bytes) if size else formatting.NOTHING,
        formatting.ratio(size.ratio) if size else formatting.NOTHING,
        formatting.accuracy_change(target.accuracy) if target.accuracy else _verdict(Verdict.NOT_RUN),
        formatting.error(formatting.worst_error(target)) if target.parity else _verdict(Verdict.NOT_RUN),
        formatting.milliseconds(latency.pruned.p50_ms) if latency else _verdict(Verdict.NOT_RUN),
        formatting.ratio(latency.comparison.ratio) if latency else formatting.NOTHING,
    ]


def _run_cells(target: TargetResult) -> list[str]:
    size, latency, accuracy = target.size, target.latency, target.accuracy
    return [
        formatting.size(size.pruned_bytes if size else None),
        formatting.percent(accuracy.pruned_value if accuracy else None),
        formatting.accuracy_change(accuracy),
        formatting.milliseconds(latency.pruned.p50_ms if latency else None),
        formatting.ratio(latency.comparison.ratio if latency else None),
    ]


def _dense_cells(target: TargetResult) -> list[str]:
    size, latency, accuracy = target.size, target.latency, target.accuracy
    return [
        formatting.size(size.dense_bytes if size else None),
        formatting.percent(accuracy.dense_value if accuracy else None),
        "",
        formatting.milliseconds(latency.dense.p50_ms if latency else None),
        "",
    ]


def _verdict(value: Verdict) -> Text:
    return Text(formatting.verdict(value), style=STYLES[value])


def _one_shot(report: RunReport) -> str:
    return ", one-shot (not trained)" if report.one_shot else ""


def _hardening(report: RunReport) -> list[Text]:
    """What exact zeros did to the metric, and BatchNorm measured again."""
    gap, again = report.soft_hard_gap, report.recalibration
    if gap is None:
        return []
    values = [] if report.one_shot else [("soft masks", gap.soft_value)]
    values += [("zeros", gap.hard_value)]
    values += [("recalibrated", again.after)] if again else []
    return [_line(f"{gap.metric}: " + " -> ".join(f"{name} {formatting.percent(value)}" for name, value in values))]


def _notes(report: RunReport) -> list[Text]:
    lines = [f"{target.target}: {reason}" for target in report.targets for reason in target.reasons]
    lines += [
        f"{target.target}: latency {formatting.latency_word(target.latency)}: {'; '.join(target.latency.reasons)}"
        for target in report.targets
        if target.latency is not None and target.latency.verdict is Verdict.INCONCLUSIVE
    ]
    if len(lines) > _MAX_NOTES:
        lines = [*lines[: _MAX_NOTES - 1], f"... and {len(lines) - _MAX_NOTES + 1} more in the report"]
    return [_line(line) for line in lines]


def _next_commands(report: RunReport, folder: Path) -> list[str]:
    commands = [f"inspect {folder / target.file}" for target in report.targets[:1]]
    return [*commands, f"report {folder} OTHER_RUN"]


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
