"""Numbers as people read them, the same in the terminal and on the page. ASCII only; None is a dash."""

from __future__ import annotations

from pdp_export.measurements import AccuracyResult, Interval, LatencyResult, TargetResult
from pdp_export.results import Verdict

NOTHING = "-"
_LATENCY_WORDS = {
    Verdict.PASS: "faster",
    Verdict.FAIL: "not faster",
    Verdict.INCONCLUSIVE: "undecided",
    Verdict.NOT_RUN: "NOT RUN",
}


def size(value: int | None) -> str:
    """Bytes as B, kB or MB (powers of 1000), three digits."""
    if value is None:
        return NOTHING
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{_three_digits(value / factor)} {unit}"
    return f"{value} B"


def count(value: int | None) -> str:
    """A count as M or k, three digits."""
    if value is None:
        return NOTHING
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{_three_digits(value / factor)} {unit}"
    return str(value)


def ratio(value: float | None) -> str:
    """A ratio with three digits."""
    return NOTHING if value is None else f"{_three_digits(value)}x"


def percent(value: float | None) -> str:
    """A fraction 0..1 as percent with two digits after the point."""
    return NOTHING if value is None else f"{100 * value:.2f} %"


def points(value: float | None) -> str:
    """A change of a fraction as signed percentage points."""
    if value is None:
        return NOTHING
    return f"{100 * value:+.2f} pt" if round(100 * value, 2) else "0.00 pt"


def accuracy_change(result: AccuracyResult | None) -> str:
    """The change of the metric, pruned minus dense, in percentage points."""
    return NOTHING if result is None else points(-result.drop + 0.0)


def accuracy_interval(result: AccuracyResult | None) -> str:
    """The 95 % interval of that change."""
    if result is None or result.drop_interval is None:
        return ""
    low, high = -result.drop_interval.high, -result.drop_interval.low
    return f"95 %: {points(low)} to {points(high)}"


def milliseconds(value: float | None) -> str:
    """Milliseconds with three digits."""
    return NOTHING if value is None else f"{_three_digits(value)} ms"


def interval(value: Interval | None) -> str:
    """A 95 % interval of a ratio."""
    return "" if value is None else f"95 %: {value.low:.3f} to {value.high:.3f}"


def error(value: float | None) -> str:
    """An error figure in scientific notation; exact zero is said in words."""
    if value is None:
        return NOTHING
    return "0 (exact)" if value == 0 else f"{value:.1e}"


def number(value: float | None) -> str:
    """Any other figure, four digits; numbers that people still read at a glance have no exponent."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"  # noqa: PLR2004  powers of ten


def shape(value: tuple[int, ...] | None) -> str:
    """A tensor shape."""
    return "removed" if value is None else " x ".join(str(axis) for axis in value)


def verdict(value: Verdict) -> str:
    """A verdict as it is shown: NOT RUN with a space."""
    return value.value.replace("_", " ")


def latency_word(result: LatencyResult | None) -> str:
    """What this run may say about speed: "faster" only when the measurement shows it."""
    return _LATENCY_WORDS[Verdict.NOT_RUN if result is None else result.verdict]


def worst_error(result: TargetResult) -> float | None:
    """The largest output error of a target relative to max|y|; None when no output could be compared."""
    errors = [item.relative_to_range for item in result.parity if item.relative_to_range is not None]
    return max(errors, default=None)


def _three_digits(value: float) -> str:
    digits = 2 if value < 10 else 1 if value < 100 else 0  # noqa: PLR2004  the powers of ten of three digits
    return f"{value:.{digits}f}" if value >= 0.1 or value == 0 else f"{value:.2g}"  # noqa: PLR2004
