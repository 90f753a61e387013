"""Times whole networks in the runtime that they are planned for, each with another plan."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pdp_export.costs.timing import median_us
from pdp_export.removal.costs import CostModel, cost_model

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from pdp_export.costs import Measured

SECONDS = 1.0
"""How long each network runs in all."""

LENIENCE = 0.15
"""What a gather may cost its own layer more, in the plan that bets on what it saves the others."""

Run = Callable[[], object]


def rivals(measured: Measured) -> dict[str, CostModel]:
    """Return other plans than the measured one that have turned out faster on some network."""
    found: dict[str, CostModel] = {"gathers preferred": replace(measured, worthwhile=-LENIENCE)}
    for width in measured.fills:
        name = "gathers everywhere" if width == 1 else f"gathers everywhere, widths of {width}"
        found[name] = replace(measured, fills=(width,), worthwhile=-math.inf)
    return found | {"estimated": cost_model("latency", max(measured.fills))}


@dataclass(frozen=True)
class PlanTimes:
    """Microseconds of whole networks, in the runtime and with the threads of the layers that were measured.

    They are remembered where the times of layers are.
    """

    layers: Measured

    def known(self, key: str, names: Sequence[str]) -> Mapping[str, float] | None:
        """Return the remembered time of each plan for a network, None unless all are known."""
        times = {name: time for name in names if (time := self.layers.cache.get(f"{key}/{name}")) is not None}
        return times if len(times) == len(names) else None

    def timed(self, key: str, programs: Mapping[str, Callable[[], ExportedProgram]]) -> Mapping[str, float]:
        """Make each program, time all of them in turns, and remember the medians."""
        opened = _in_onnxruntime if self.layers.runtime == "onnxruntime" else _in_torch
        runs = [opened(make(), self.layers.threads) for make in programs.values()]
        times = dict(zip(programs, median_us(runs, threads=self.layers.threads, seconds=SECONDS), strict=True))
        for name, time in times.items():
            self.layers.cache.put(f"{key}/{name}", time)
        self.layers.cache.save()
        return times


def _in_onnxruntime(program: ExportedProgram, threads: int) -> Run:
    from pdp_export.pipeline.api import convert
    from pdp_export.runtimes.onnx_runtime import open_session

    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        path = Path(folder) / "plan.onnx"
        convert(program, path, target="onnx", encoding="dense")
        session = open_session(path, threads)
    values = {spec.name: value.numpy() for spec, value in zip(session.inputs, _inputs(program), strict=True)}
    return lambda: session.run(values)


def _in_torch(program: ExportedProgram, threads: int) -> Run:
    del threads  # torch has as many as it was set to
    module, inputs = program.module(check_guards=False), _inputs(program)

    def run() -> object:
        with torch.no_grad():
            return module(*inputs)

    return run


def _inputs(program: ExportedProgram) -> tuple[Any, ...]:
    positional, _ = program.example_inputs or ((), {})
    return tuple(positional)
