"""The runs: every kind of mask at several sparsities, three seeds each, and the dense network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pdp_export.pruning import Channel

TASK = "cifar-resnet8"
SEEDS = (0, 1, 2)
LEARNING_RATE, PRESET, RAMP_END = 0.2, "default", 0.75
"""The same for all kinds; `benchmarks.pruning_quality` chose them for this task."""

DENSE = "dense"
KINDS: dict[str, tuple[str, int]] = {"free": ("free", 1), "stream": ("stream", 1), "aligned": ("stream", 8)}
"""Kind of mask: ties and alignment of `Channel`."""
SPARSITIES: dict[str, tuple[float, ...]] = {
    "free": (0.4, 0.6, 0.75),  # a free channel leaves the residual stream only where all agree
    "stream": (0.3, 0.5, 0.7),
    "aligned": (0.3, 0.5, 0.7),
}


@dataclass(frozen=True)
class Run:
    """One training run."""

    kind: str
    sparsity: float
    seed: int

    @property
    def key(self) -> str:
        """What names the row and the file of weights."""
        return f"{TASK}/{self.kind}/{self.sparsity:g}/{self.seed}"

    @property
    def file(self) -> str:
        """Return the name of the file that keeps the network."""
        return f"{self.key.replace('/', '-')}.safetensors"

    @property
    def pattern(self) -> Channel | None:
        """Return what is pruned; None for the dense network."""
        if self.kind == DENSE:
            return None
        ties, align = KINDS[self.kind]
        return Channel(self.sparsity, "free" if ties == "free" else "stream", align)


def runs() -> list[Run]:
    """Return all runs; a seed is complete before the next one begins."""
    points = [(DENSE, 0.0), *((kind, sparsity) for kind in KINDS for sparsity in SPARSITIES[kind])]
    return [Run(kind, sparsity, seed) for seed in SEEDS for kind, sparsity in points]


def missing(done: Collection[str]) -> list[Run]:
    """Return the runs without a row."""
    return [run for run in runs() if run.key not in done]
