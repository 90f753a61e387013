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
    from pdp_export.costs import Measured
    from pdp_export.removal.whole_plans import Network, Networks

SECONDS = 0.5
"""How long each network runs in all."""

LENIENCE = 0.15
"""What a gather may cost its own layer more, in the plan that bets on what it saves the others."""

Run = Callable[[], object]


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

    def timed(self, networks: Networks) -> Mapping[str, float]:
        """Make each network, and time all of them in turns: medians."""
        opened = _in_onnxruntime if self.layers.runtime == "onnxruntime" else _in_torch
        runs = opened([make() for make in networks.values()], self.layers.threads)
        return dict(zip(networks, median_us(runs, threads=self.layers.threads, seconds=SECONDS), strict=True))

    def remember(self, key: str, times: Mapping[str, float]) -> None:
        """Keep the times where those of layers are."""
        for name, time in times.items():
            self.layers.cache.put(f"{key}/{name}", time)
        self.layers.cache.save()


def _in_onnxruntime(networks: Sequence[Network], threads: int) -> list[Run]:
    from pdp_export.runtimes.onnx_runtime import open_session

    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(len(networks))]
        if not _written_quickly(networks, paths):
            _convert(networks, paths)
        sessions = [open_session(path, threads) for path in paths]
    return [
        partial(session.run, dict(zip((spec.name for spec in session.inputs), _arrays(network), strict=True)))
        for session, network in zip(sessions, networks, strict=True)
    ]


def _written_quickly(networks: Sequence[Network], paths: Sequence[Path]) -> bool:
    """Write all of them, or say that one cannot be: files from different exporters would not be comparable."""
    from pdp_export.costs.onnx_networks import quick_onnx

    for network, path in zip(networks, paths, strict=True):
        content = quick_onnx(network.module, network.inputs)
        if content is None:
            return False
        path.write_bytes(content)
    return True


def _convert(networks: Sequence[Network], paths: Sequence[Path]) -> None:
    """Convert all of them as files that are shipped, in one child process."""
    from pdp_export.graph.archive import save_program
    from pdp_export.pipeline.conversion import Job, convert_files
    from pdp_export.pipeline.program_io import input_specs, output_names_of

    jobs: list[Job] = []
    for network, path in zip(networks, paths, strict=True):
        program = network.program()
        save_program(program, path.with_suffix(".pt2"))
        request = ConvertRequest(inputs=input_specs(program, ()), outputs=output_names_of(program), encoding="dense")
        jobs.append(Job(path.with_suffix(".pt2"), path, request))
    convert_files("onnx", jobs)


def _arrays(network: Network) -> list[Any]:
    return [value.numpy() for value in network.inputs]


def _in_torch(networks: Sequence[Network], threads: int) -> list[Run]:
    del threads  # torch has as many as it was set to
    return [partial(_eager, network) for network in networks]


def _eager(network: Network) -> object:
    with torch.no_grad():
        return network.module(*network.inputs)
