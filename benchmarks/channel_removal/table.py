"""The figures as Markdown: gates first, then one table for each runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.channel_removal.plan import COMPARED, NATIVE

_COLUMNS = (
    *("dense", "naive", "upscale", "upscale16", "union16", "ours", "estimated"),
    *("torch_pruning", "torch_pruning16", "tied"),
)


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the whole page."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Mapping[str, Any]) -> Iterator[str]:
    machine = summary["environment"]
    if machine:
        sets = ", ".join(machine["instructions"])
        yield f"{machine['cpu']}, {machine['cores']} cores, 1 thread; {sets}; block of {machine['block']} channels."
        yield ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + "."
        yield ""
    yield from ("| gate | verdict | found |", "| --- | --- | --- |")
    for gate in summary["gates"]:
        failed = "".join(f"<br>{text}" for text in gate["failed"])
        yield f"| {gate['gate']} | **{gate['verdict']}** | {gate['found']}{failed} |"
    for runtime in (*COMPARED, *NATIVE):
        cells = [item for item in summary["cells"] if item["runtime"] == runtime]
        if cells:
            yield from ("", f"### {runtime}", "", *_table(cells))
    yield from _planning(summary)
    if summary["missing"]:
        yield from ("", f"Missing: {', '.join(summary['missing'])}.")


def _table(cells: list[Mapping[str, Any]]) -> Iterator[str]:
    shown = [name for name in _COLUMNS if any(name in item["variants"] for item in cells)]
    yield f"| network, mask | {' | '.join(shown)} | ours / best rival | regret |"
    yield "| --- " * (len(shown) + 3) + "|"
    for item in cells:
        values = [_value(item["variants"].get(name), name) for name in shown]
        pairs = [_pair(item.get(title)) for title in ("ours_over_best_rival", "regret")]
        yield f"| {item['net']} {item['kind']} {item['ratio']:.0%} | {' | '.join([*values, *pairs])} |"
    yield ""
    yield from (f"- {text}" for text in dict.fromkeys(_failures(cells)))


def _failures(cells: list[Mapping[str, Any]]) -> Iterator[str]:
    for item in cells:
        for name, found in item["variants"].items():
            if found["status"] != "ok":
                yield f"{item['net']}, {item['kind']} {item['ratio']:.0%}: {name} {found['status']}: {found['reason']}"


def _value(found: Mapping[str, Any] | None, name: str) -> str:
    if found is None:
        return ""
    if found["status"] != "ok":
        return found["status"]  # type: ignore[no-any-return]
    if name == "dense" or "over_dense" not in found:
        return f"{found['median_cpu_ms']:.2f} ms"
    return f"{found['over_dense']['ratio']:.3f}"


def _pair(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f}), {found['to']}"


def _planning(summary: Mapping[str, Any]) -> Iterator[str]:
    ours = [item for item in summary["cells"] if "plan_cpu_s" in item["variants"].get("ours", {})]
    if not ours:
        return
    yield from ("", "### CPU seconds of planning", "")
    yield from ("| network, mask, runtime | UPSCALE | estimated | measured | remembered |", "| --- " * 5 + "|")
    for item in ours:
        variants = item["variants"]
        cells = (
            variants.get("upscale", {}).get("plan_cpu_s"), variants.get("estimated", {}).get("plan_cpu_s"),
            variants["ours"]["plan_cpu_s"], variants["ours"]["plan_cached_cpu_s"],
        )  # fmt: skip
        yield f"| {item['key']} | {' | '.join('' if value is None else f'{value:.2f}' for value in cells)} |"
    whole = [item for item in summary["planning"] if item["runtime"] == "planning"]
    for item in whole:
        yield f"\n{item['net']}: {item['total_cpu_s']:.1f} s for all of it, with capture, proof and capture anew."
