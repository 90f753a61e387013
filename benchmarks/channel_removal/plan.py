"""What there is to measure: a row for each network, mask, ratio and runtime, and rows about planning time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from benchmarks.channel_removal.masks import Kind
from benchmarks.channel_removal.subjects import NETS

MASKS: tuple[tuple[Kind, float], ...] = (("columns", 0.37), ("columns", 0.5), ("filters", 0.5))
COMPARED = ("onnxruntime", "torch")
NATIVE = ("mnn", "litert")
DEPTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Job:
    """One row. `runtime` is "planning" or "growth" for the rows about planning time."""

    net: str
    runtime: str
    kind: Kind = "columns"
    ratio: float = 0.37
    depth: int = 1

    @property
    def key(self) -> str:
        """What names the row."""
        if self.runtime == "growth":
            return f"growth/{self.net}x{self.depth}"
        if self.runtime == "planning":
            return f"planning/{self.net}"
        return f"{self.net}/{self.kind}/{self.ratio:g}/{self.runtime}"


def jobs() -> list[Job]:
    """Return all jobs; those that share a masked network follow each other."""
    found = [Job("resnet18", "growth", depth=depth) for depth in DEPTHS]
    for net in NETS:
        found.append(Job(net, "planning"))
        for kind, ratio in MASKS:
            found += [Job(net, runtime, kind, ratio) for runtime in COMPARED]
    return found + [Job(net, runtime, *mask) for net in NETS for mask in MASKS[1:2] for runtime in NATIVE]


def missing(done: Collection[str]) -> list[Job]:
    """Return the jobs without a row."""
    return [job for job in jobs() if job.key not in done]
