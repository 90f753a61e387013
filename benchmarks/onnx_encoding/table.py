"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

_ORDER = ("dense", "coo", "bitmask", "bitmask2", "gap8", "auto, load", "auto, size")


def markdown(result: Mapping[str, Any]) -> str:
    """Return the tables of one result: bytes, the int8 files, load and memory, inference."""
    cells = dict(sorted(result["cells"].items()))
    environment = result["environment"]
    head = (
        f"Measured on {environment['cpu']}, {environment['cores']} cores, one thread; ONNX Runtime "
        f"{environment['versions']['onnxruntime']}. Random weights, pruned by magnitude in all "
        "layers but depthwise ones."
    )
    parts = [head, _bytes(cells), _narrow(cells), _load(cells), _inference(cells), _accuracy(result.get("accuracy"))]
    return "# Sparse weights in ONNX files\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _bytes(cells: Mapping[str, Any]) -> str:
    rows = []
    for name, cell in cells.items():
        floor = cell["floors"]["fp32"]["entropy"]
        values = [cell["bytes"][form]["raw"] / cell["dense_bytes"] for form in _ORDER]
        zipped = cell["bytes"]["dense"].get("zstd", cell["bytes"]["dense"]["zip"])
        packed = cell["bytes"]["auto, load"].get("zstd", cell["bytes"]["auto, load"]["zip"])
        shares = [*values, zipped / cell["dense_bytes"], packed / cell["dense_bytes"]]
        shares += [cell["floors"]["fp32"]["bit"] / cell["dense_bytes"], floor / cell["dense_bytes"]]
        ratios = [cell["bytes"][form]["raw"] / floor for form in ("auto, load", "auto, size")]
        rows.append(
            [name, *(f"{100 * share:.2f}" for share in shares), *(f"{r:.3f}" for r in [*ratios, packed / floor])]
        )
    head = ["network@zeros", *_ORDER, "dense, zstd", "auto, load, zstd", "1 bit + values", "entropy + values",
            "load / floor", "size / floor", "load, zstd / floor"]  # fmt: skip
    return "## Bytes, fp32, % of the dense file\n\n" + _table(head, rows)


def _narrow(cells: Mapping[str, Any]) -> str:
    forms = ("fp16, load", "fp16, size", "int8 dense", "int8, load", "int8, size")
    rows = [
        [name, *(f"{100 * cell['bytes'][form]['raw'] / cell['dense_bytes']:.2f}" for form in forms)]
        for name, cell in cells.items()
    ]
    return "## Bytes, narrower values, % of the dense fp32 file\n\n" + _table(["network@zeros", *forms], rows)


def _load(cells: Mapping[str, Any]) -> str:
    rows = []
    for name, cell in cells.items():
        for form, item in cell.get("load", {}).items():
            twin = cell["load"]["int8 dense" if form.startswith("int8") else "dense"]
            time, peak, process = (median(item[key]) for key in ("load_ms", "peak_mb", "process_mb"))
            exact = "yes" if item["outputs"] == twin["outputs"] else "fp16 values" if "fp16" in form else "NO"
            rows.append([
                name, form, f"{time:.0f}", f"{time / median(twin['load_ms']):.2f}", f"{peak:.0f}",
                f"{peak / median(twin['peak_mb']):.2f}", f"{process / median(twin['process_mb']):.2f}", exact,
            ])  # fmt: skip
    head = [
        "network@zeros",
        "form",
        "load ms",
        "/ dense",
        "peak MB added",
        "/ dense",
        "process / dense",
        "outputs equal",
    ]
    return "## Load: medians, each file in a process of its own, interleaved\n\n" + _table(head, rows) if rows else ""


def _inference(cells: Mapping[str, Any]) -> str:
    rows = [
        [name, form, f"{item['dense_ms']:.2f}", f"{item['ratio']:.3f} ({item['low']:.3f} to {item['high']:.3f})",
         f"{item['control']:.3f}"]
        for name, cell in cells.items() for form, item in cell.get("inference", {}).items()
    ]  # fmt: skip
    head = ["network@zeros", "form", "dense ms", "sparse / dense (95 % interval)", "dense / dense"]
    return "## Inference after loading\n\n" + _table(head, rows) if rows else ""


def _accuracy(trained: Mapping[str, Any] | None) -> str:
    if not trained:
        return ""
    rows = [
        [form, f"{item['bytes']:,}", f"{item['correct']} of {item['samples']}"]
        for form, item in trained["files"].items()
    ]
    title = f"## A trained network: ResNet-8 on digits, {trained['zeros']:.0%} zeros in every weight\n\n"
    text = "All files hold the same trained and pruned weights; only how they are stored differs.\n\n"
    return title + text + _table(["file", "bytes", "correct"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
