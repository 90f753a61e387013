"""Picks the smallest encoding of a tensor from its values alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pdp_export.encoding.code import Array
from pdp_export.encoding.codecs import AUTO, CODECS, FAMILIES

OBJECTIVES = tuple(AUTO)


def candidates(encoding: str, objective: str = "load") -> tuple[str, ...]:
    """Return the codecs that an encoding allows; "dense" is always among them, since it never fails to be right.

    Args:
        encoding: "auto", "dense", or one of FAMILIES.
        objective: "load" or "size": what "auto" chooses from.
    """
    if encoding == "dense":
        return ("dense",)
    return ("dense", *(AUTO[objective] if encoding == "auto" else FAMILIES[encoding]))


def ranked(values: Array, names: Iterable[str]) -> list[tuple[int, str]]:
    """Return the exact payload in bytes under each codec that fits, smallest first; the first name wins a tie."""
    sizes = [(CODECS[name].predicted_bytes(values), index, name) for index, name in enumerate(names)]
    return [(size, name) for size, _, name in sorted((s, i, n) for s, i, n in sizes if s is not None)]


def choose(values: Array, names: Sequence[str]) -> tuple[str, int]:
    """Return the codec with the smallest payload, and its bytes."""
    size, name = ranked(values, names)[0]
    return name, size
