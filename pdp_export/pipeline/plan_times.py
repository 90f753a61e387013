"""Times whole networks in the runtime that they are planned for, each with another plan."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pdp_export.costs.timing import median_us
from pdp_export.removal.costs import CostModel, cost_model
from pdp_export.targets import ConvertRequest

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from pdp_export.costs import Measured

SECONDS = 0.5
"""How long each network runs in all."""

LENIENCE = 0.15
"""What a gather may cost its own layer more, in the plan that bets on what it saves the others."""

Run = Callable[[], object]
Make = Callable[[], "ExportedProgram"]


def rivals(measured: Measured) -> dict[str, CostModel]:
    """Return other plans than the measured one that have turned out faster on some network."""
    found: dict[str, CostModel] = {
        "gathers preferred": replace(measured, worthwhile=-LENIENCE),
        "gathers before concatenations": replace(measured, before_concatenations=True),
    }
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

    def timed(self, programs: Mapping[str, Make]) -> Mapping[str, float]:
        """Make each program, and time all of them in turns: medians."""
        opened = _in_onnxruntime if self.layers.runtime == "onnxruntime" else _in_torch
        runs = opened(list(programs.values()), self.layers.threads)
        return dict(zip(programs, median_us(runs, threads=self.layers.threads, seconds=SECONDS), strict=True))

    def remember(self, key: str, times: Mapping[str, float]) -> None:
        """Keep the times where those of layers are."""
        for name, time in times.items():
            self.layers.cache.put(f"{key}/{name}", time)
        self.layers.cache.save()


def _in_onnxruntime(makers: Sequence[Make], threads: int) -> list[Run]:
    """Convert all programs in one child process, and open the files."""
    from pdp_export.graph.archive import save_program
    from pdp_export.pipeline.conversion import Job, convert_files
    from pdp_export.pipeline.program_io import input_specs, output_names_of
    from pdp_export.runtimes.onnx_runtime import open_session

    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        jobs: list[Job] = []
        inputs: list[Any] = []
        for number, make in enumerate(makers):
            program, place = make(), Path(folder) / f"{number}.pt2"
            save_program(program, place)
            request = ConvertRequest(
                inputs=input_specs(program, ()), outputs=output_names_of(program), encoding="dense"
            )
            jobs.append(Job(place, place.with_suffix(".onnx"), request))
            inputs = [value.numpy() for value in _inputs(program)]
        convert_files("onnx", jobs)
        sessions = [open_session(job.path, threads) for job in jobs]
    return [
        partial(session.run, dict(zip((spec.name for spec in session.inputs), inputs, strict=True)))
        for session in sessions
    ]


def _in_torch(makers: Sequence[Make], threads: int) -> list[Run]:
    del threads  # torch has as many as it was set to
    programs = [make() for make in makers]
    return [partial(_eager, program.module(check_guards=False), _inputs(program)) for program in programs]


def _eager(module: torch.nn.Module, inputs: tuple[Any, ...]) -> object:
    with torch.no_grad():
        return module(*inputs)


def _inputs(program: ExportedProgram) -> tuple[Any, ...]:
    positional, _ = program.example_inputs or ((), {})
    return tuple(positional)
