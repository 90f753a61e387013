"""A cost model that times every option of a layer on the runtime where the network will run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Literal

import platformdirs

from pdp_export.costs.cache import TimeCache
from pdp_export.costs.timing import Run, median_us
from pdp_export.errors import UsageError
from pdp_export.machine import cpu_capability, cpu_name
from pdp_export.removal.costs import LayerWork

Runtime = Literal["onnxruntime", "torch"]

RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "torch")


@dataclass(frozen=True)
class Measured:
    """Microseconds on this machine: the median of interleaved runs, see `median_us`."""

    runtime: Runtime
    threads: int
    cache: TimeCache
    fills: tuple[int, ...]
    worthwhile: float = 0.03
    before_concatenations: bool = False

    @property
    def name(self) -> str:
        """Return the unit with its runtime."""
        setting = self.cache.setting
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"microseconds measured on {setting['runtime']} {setting['version']}, {setting['cpu']}, {threads}"

    def costs(self, options: Sequence[LayerWork]) -> list[float]:
        """Time the options in turns, unless all of them are known.

        A known time stays: the others are scaled by what the known ones take now, so that a machine that has become
        slower in the meantime slows no option alone, and the same plan follows from what is remembered.
        """
        known = [self.cache.get(work) for work in options]
        if None in known:
            times = median_us([self._run(work) for work in options], threads=self.threads)
            drifts = [before / now for before, now in zip(known, times, strict=True) if before is not None]
            scale = median(drifts) if drifts else 1.0
            for work, before, now in zip(options, known, times, strict=True):
                if before is None:
                    self.cache.put(work, now * scale)
            self.cache.save()
        return [time for work in options if (time := self.cache.get(work)) is not None]

    def _run(self, work: LayerWork) -> Run:
        from pdp_export.costs.onnx_layers import onnx_run
        from pdp_export.costs.torch_layers import torch_run

        return onnx_run(work, self.threads) if self.runtime == "onnxruntime" else torch_run(work)


def measured(runtime: Runtime, *, threads: int = 1, align: int | None = None, folder: Path | None = None) -> Measured:
    """Return the model for a runtime on this machine.

    Args:
        runtime: "onnxruntime", or "torch" for eager code.
        threads: How many threads the runtime has.
        align: The only multiple that widths are filled to; else one, and the block of the runtime.
        folder: Where times are remembered; else the user's folder for caches.

    Raises:
        UsageError: for an unknown runtime, or for torch with other threads than it has.
    """
    import torch

    if runtime not in RUNTIMES:
        raise UsageError(f"cannot measure on {runtime!r}", where="runtime", hint=f"use one of: {', '.join(RUNTIMES)}")
    if runtime == "torch" and torch.get_num_threads() != threads:
        raise UsageError(
            f"torch runs {torch.get_num_threads()} threads, asked to measure {threads}",
            where="threads",
            hint=f"call torch.set_num_threads({threads}) first",
        )
    setting = {
        "runtime": runtime, "version": version(runtime), "cpu": cpu_name(), "vectors": cpu_capability(),
        "threads": str(threads),
    }  # fmt: skip
    cache = TimeCache(folder or Path(platformdirs.user_cache_dir("pdp-export", False)) / "costs", setting)
    block = preferred_block(runtime)
    fills = (align,) if align is not None else tuple(sorted({1, block}))
    return Measured(runtime, threads, cache, fills)


def preferred_block(runtime: Runtime) -> int:
    """Return the number of channels that the runtime's fastest kernels take at once; 1 where any number does.

    ONNX Runtime's blocked layout has 16 channels with AVX-512 and 8 without (MLAS, MlasNchwcGetBlockSize).
    """
    if runtime == "torch":
        return 1
    return 16 if cpu_capability() == "AVX512" else 8
