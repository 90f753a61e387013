"""The comparisons as Markdown tables for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = (
    "| method | accuracy, % | best PDP minus it | soft minus hard | reached | MACs kept |",
    "| --- | --- | --- | --- | --- | --- |",
)


def markdown(summary: Mapping[str, Any]) -> str:
    """Return one table per comparison, the best method first."""
    return "\n".join(line for item in summary["comparisons"] for line in _table(item))


def _table(item: Mapping[str, Any]) -> list[str]:
    seeds = len(item["methods"][0]["seeds"]) if item["methods"] else 0
    title = f"### {item['task']}, {item['pattern']} {item['asked']:g} ({item['stage']}, {seeds} seeds)"
    best = f"Best PDP preset: `{item['best_pdp']}`, {item['standing']}." if item["best_pdp"] else "No PDP preset here."
    failed = [f"`{row['method']}`: {row['status']} ({row['reason']})" for row in item["failed"]]
    rows = [_row(method, item["best_pdp_minus"].get(method["method"])) for method in item["methods"]]
    return [
        title,
        "",
        best,
        "",
        *_HEAD,
        *rows,
        "",
        *[f"Left out: {text}." for text in failed],
        *([""] if failed else []),
    ]


def _row(method: Mapping[str, Any], pair: Mapping[str, Any] | None) -> str:
    name = f"**{method['method']}**" if method["family"] == "pdp" else method["method"]
    difference = "" if pair is None else f"{_interval(pair, '+.2f')} {pair['verdict']}"
    reached = f"{100 * method['sparsity']['mean']:.2f} %" + ("" if method["sparsity"]["on_target"] else " (off target)")
    cells = (
        name,
        _interval(method["hard"], ".2f"),
        difference,
        f"{method['soft_minus_hard']['mean']:+.2f}",
        reached,
        f"{100 * method['macs_kept']:.1f} %",
    )
    return f"| {' | '.join(cells)} |"


def _interval(value: Mapping[str, Any], form: str) -> str:
    if value["low"] is None:
        return f"{value['mean']:{form}}"
    return f"{value['mean']:{form}} ± {value['high'] - value['mean']:.2f}"
