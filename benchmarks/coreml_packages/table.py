"""The results as a page of Markdown."""

from __future__ import annotations

from typing import Any


def table(result: dict[str, Any]) -> str:
    """Return what was measured so far."""
    lines = ["# Core ML packages, checked on Linux", "", _environment(result.get("environment", {})), ""]
    if "sizes" in result:
        lines += ["## Bytes of weight.bin, as a share of dense fp16", ""]
        lines += [
            "| network | zeros | sparse | int8 | palette6 | palette4 | weights |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_size_row(row) for rows in result["sizes"].values() for row in rows]
        lines.append("")
    if "parity" in result:
        lines += ["## Largest error of the interpreted package, relative to max|y| (75 % zeros)", ""]
        lines += ["| network | fp32 | fp16 | operators |", "|---|---|---|---|"]
        lines += [
            f"| {row['network']} | {row['fp32_of_range']:.1e} | {row['fp16_of_range']:.1e} | {len(row['operators'])} |"
            for row in result["parity"].values()
        ]
        lines.append("")
    if "speed" in result:
        found = result["speed"]
        lines += [f"## Time against PyTorch eager: MobileNet-v2, 224 x 224, {found['rounds']} interleaved rounds", ""]
        lines += ["| run | median ms | ratio to eager |", "|---|---|---|"]
        lines += [f"| {name} | {ms} | {found['ratio_to_eager'][name]} |" for name, ms in found["median_ms"].items()]
        lines.append("")
    if "damage" in result:
        found = result["damage"]
        counts = ", ".join(f"{count} {name}" for name, count in sorted(found["found"].items()))
        lines += [f"## {found['packages']} damaged packages", ""]
        lines += [f"{counts}; largest process {found['peak_mib']} MiB.", ""]
    return "\n".join(lines)


def _environment(found: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in found.items())


def _size_row(row: dict[str, Any]) -> str:
    shares = " | ".join(f"{row[name]['of_dense']:.3f}" for name in ("sparse", "int8", "palette6", "palette4"))
    verdicts = {row[name]["weights"] for name in ("sparse", "int8", "palette6", "palette4")}
    return f"| {row['network']} | {row['zeros']:.0%} | {shares} | {' '.join(sorted(verdicts))} |"
