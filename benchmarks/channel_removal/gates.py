"""The promises, judged from rows: "pass", "fail", or why there is nothing to judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.channel_removal.plan import COMPARED, DEPTHS, MASKS
from benchmarks.channel_removal.ratios import Ratio, fastest, geometric_mean, median, ratio, slope, timed
from benchmarks.channel_removal.subjects import NETS
from benchmarks.channel_removal.variants import OURS, RIVALS, is_policy

Row = Mapping[str, Any]
Gate = dict[str, Any]

SLOWER = 1.03
MUCH_FASTER = 2.0
FASTER = 1.2
NETS_LOST = 3
PLAN_S, MEASURED_S, CACHED_S = 5.0, 60.0, 5.0
NEAR_LINEAR = 1.2
EXACT = ("dense", "naive", "upscale", "upscale16", "union16")


def gates(rows: Sequence[Row]) -> list[Gate]:
    """Return every gate with its verdict, what it found, and the cells that fail."""
    compared = [row for row in rows if row["runtime"] in COMPARED]
    found = [_never_slower(compared), _upscale_mobilenet(compared)]
    for runtime in COMPARED:
        mine = [row for row in compared if row["runtime"] == runtime]
        found += [_upscale_mean(mine, runtime), _regret(mine, runtime), *_policies(mine, runtime), _tied(mine, runtime)]
    return [*found, *_planning(rows, compared), _growth(rows), _control(compared)]


def against_best_rival(row: Row) -> tuple[str, Ratio] | None:
    """Return the fastest rival of a row, and our time over its; None where we or they are missing."""
    times = timed(row)
    best = fastest(times, RIVALS)
    if OURS not in times or best is None:
        return None
    return best, ratio(times[OURS], times[best])


def regret(row: Row) -> tuple[str, Ratio] | None:
    """Return the fastest of all ways to compute the same function, ours among them, and our time over its."""
    times = timed(row)
    candidates = [name for name in times if name in EXACT or is_policy(name) or name in (OURS, "estimated")]
    best = fastest(times, candidates)
    return None if OURS not in times or best is None else (best, ratio(times[OURS], times[best]))


def _gate(name: str, verdict: str, text: str, failed: Sequence[str] = ()) -> Gate:
    return {"gate": name, "verdict": verdict, "found": text, "failed": list(failed)}


def _judge(passed: bool, complete: bool) -> str:
    if not complete:
        return "incomplete" if passed else "fail"
    return "pass" if passed else "fail"


def _never_slower(rows: Sequence[Row]) -> Gate:
    pairs = {row["key"]: pair for row in rows if (pair := against_best_rival(row)) is not None}
    name = f"never slower than the best of {', '.join(RIVALS)} by more than 3 %"
    if not pairs:
        return _gate(name, "no rows", "")
    failed = [
        f"{key}: {found.value:.3f} ({found.low:.3f} to {found.high:.3f}) of {best}"
        for key, (best, found) in pairs.items()
        if found.low > SLOWER
    ]
    worst = max(pairs, key=lambda key: pairs[key][1].value)
    text = f"{len(pairs) - len(failed)} of {len(pairs)} cells hold; the worst is {worst}: {pairs[worst][1].value:.3f}"
    return _gate(name, _judge(not failed, len(pairs) == len(NETS) * len(MASKS) * len(COMPARED)), text, failed)


def _upscale_mobilenet(rows: Sequence[Row]) -> Gate:
    name = "at least 2x UPSCALE on mobilenet_v2 at 37 % in ONNX Runtime, with AVX-512"
    row = next((row for row in rows if row["key"] == "mobilenet_v2/columns/0.37/onnxruntime"), None)
    found = None if row is None else _upscale_ratio(row)
    if row is None or found is None:
        return _gate(name, "no rows", "")
    text = f"{found.value:.2f}x ({found.low:.2f} to {found.high:.2f})"
    if "avx512f" not in row["environment"]["instructions"]:
        return _gate(name, "not applicable", f"{text}; this machine has no AVX-512")
    return _gate(name, _judge(found.high >= MUCH_FASTER, True), text)


def _upscale_ratio(row: Row) -> Ratio | None:
    times = timed(row)
    return ratio(times["upscale"], times[OURS]) if "upscale" in times and OURS in times else None


def _upscale_mean(rows: Sequence[Row], runtime: str) -> Gate:
    found = {row["key"]: pair.value for row in rows if row["kind"] == "columns" and (pair := _upscale_ratio(row))}
    name = f"at least 1.2x UPSCALE, geometric mean over all networks and both ratios, {runtime}"
    if not found:
        return _gate(name, "no rows", "")
    mean = geometric_mean(list(found.values()))
    text = f"{mean:.3f}x over {len(found)}: {min(found.values()):.2f} to {max(found.values()):.2f}"
    complete = len(found) == 2 * len(NETS)  # a mean can still change either way
    return _gate(name, _judge(mean >= FASTER, True) if complete else "incomplete", text)


def _regret(rows: Sequence[Row], runtime: str) -> Gate:
    found = {row["key"]: pair for row in rows if (pair := regret(row)) is not None}
    name = f"regret against the best whole-network candidate, {runtime}"
    if not found:
        return _gate(name, "no rows", "")
    worst = max(found, key=lambda key: found[key][1].value)
    best, value = found[worst]
    mean = geometric_mean([pair.value for _, pair in found.values()])
    return _gate(name, "report", f"{mean:.3f} on average; at worst {value.value:.3f} ({worst}, {best})")


def _policies(rows: Sequence[Row], runtime: str) -> Iterator[Gate]:
    names = sorted({name for row in rows for name in row["variants"] if is_policy(name)})
    for policy in names:
        lost = {
            row["net"]
            for row in rows
            if policy in (times := timed(row)) and OURS in times and ratio(times[policy], times[OURS]).low > 1
        }
        title = f"the constant policy {policy} loses to ours on at least {NETS_LOST} networks, {runtime}"
        complete = len({row["key"] for row in rows}) == len(NETS) * len(MASKS)
        verdict = "pass" if len(lost) >= NETS_LOST else "fail" if complete else "incomplete"
        yield _gate(title, verdict, f"loses on {len(lost)}: {', '.join(sorted(lost))}")


def _tied(rows: Sequence[Row], runtime: str) -> Gate:
    name = f"tied, aligned masks: within 3 % of Torch-Pruning rounded to 16, {runtime}"
    found = {
        row["key"]: ratio(times["tied"], times["torch_pruning16"])
        for row in rows
        if "tied" in (times := timed(row)) and "torch_pruning16" in times
    }
    if not found:
        return _gate(name, "no rows", "")
    failed = [
        f"{key}: {pair.value:.3f} ({pair.low:.3f} to {pair.high:.3f})"
        for key, pair in found.items()
        if pair.low > SLOWER
    ]
    mean = geometric_mean([pair.value for pair in found.values()])
    return _gate(name, _judge(not failed, len(found) == 2 * len(NETS)), f"{mean:.3f} over {len(found)}", failed)


def _planning(rows: Sequence[Row], compared: Sequence[Row]) -> Iterator[Gate]:
    plain = {row["net"]: row["plan_cpu_s"] for row in rows if row["runtime"] == "planning"}
    ours = {row["key"]: row["variants"][OURS] for row in compared if "plan_cpu_s" in row["variants"].get(OURS, {})}
    first = {key: item["plan_cpu_s"] for key, item in ours.items()}
    again = {key: item["plan_cached_cpu_s"] for key, item in ours.items()}
    for name, found, limit in (
        ("planning without measuring", plain, PLAN_S),
        ("planning with measuring, the first time", first, MEASURED_S),
        ("planning with remembered times", again, CACHED_S),
    ):
        title = f"{name}: at most {limit:g} s of CPU time"
        if not found:
            yield _gate(title, "no rows", "")
            continue
        failed = [f"{key}: {value:.1f} s" for key, value in found.items() if value > limit]
        text = f"median {median(list(found.values())):.1f} s, at most {max(found.values()):.1f} s, over {len(found)}"
        yield _gate(title, _judge(not failed, True), text, failed)


def _growth(rows: Sequence[Row]) -> Gate:
    found = sorted((row["layers"], row["plan_cpu_s"]) for row in rows if row["runtime"] == "growth")
    name = f"planning time grows near-linearly with depth (exponent at most {NEAR_LINEAR:g})"
    if len(found) < 2:
        return _gate(name, "no rows", "")
    exponent = slope(*zip(*found, strict=True))
    text = f"exponent {exponent:.2f}: " + ", ".join(f"{layers} layers {spent:.2f} s" for layers, spent in found)
    return _gate(name, _judge(exponent <= NEAR_LINEAR, len(found) == len(DEPTHS)), text)


def _control(rows: Sequence[Row]) -> Gate:
    found = [
        ratio(times["again"], times["dense"]) for row in rows if {"again", "dense"} <= (times := timed(row)).keys()
    ]
    name = "control: dense against dense"
    if not found:
        return _gate(name, "no rows", "")
    values = [pair.value for pair in found]
    missed = sum(not pair.low <= 1 <= pair.high for pair in found)
    text = f"{min(values):.3f} to {max(values):.3f}; the interval misses 1 in {missed} of {len(found)} cells"
    return _gate(name, "report", text)
