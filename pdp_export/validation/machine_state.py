"""What may disturb a measurement on this machine: governor, frequency, temperature, load."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import fmean

from pdp_export.measurements import LatencyEnvironment, Measurement
from pdp_export.validation.latency_statistics import MAX_DRIFT

_CPUS = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")


class MachineState(Measurement):
    """One reading of what may disturb a measurement; empty or None where the machine does not tell."""

    governor: str | None
    affinity: tuple[int, ...]
    frequency_khz: tuple[int, ...]
    temperature_c: float | None
    load_average: tuple[float, ...]


def read_state() -> MachineState:
    """Read governor, affinity, frequencies, hottest thermal zone and load average now."""
    temperatures = [value / 1000 for value in _numbers(_THERMAL, "thermal_zone*/temp")]
    governor = _CPUS / "cpu0/cpufreq/scaling_governor"
    return MachineState(
        governor=governor.read_text().strip() if governor.is_file() else None,
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        frequency_khz=tuple(_numbers(_CPUS, "cpu[0-9]*/cpufreq/scaling_cur_freq")),
        temperature_c=max(temperatures, default=None),
        load_average=tuple(round(value, 2) for value in os.getloadavg()) if hasattr(os, "getloadavg") else (),
    )


def latency_environment(before: MachineState, after: MachineState, drift: float) -> LatencyEnvironment:
    """Join two readings around a measurement; throttled = drift or loss of frequency above 5 %."""
    slower = bool(before.frequency_khz and after.frequency_khz) and (
        fmean(after.frequency_khz) < (1 - MAX_DRIFT) * fmean(before.frequency_khz)
    )
    return LatencyEnvironment(
        governor=before.governor,
        affinity=before.affinity,
        frequency_khz_before=before.frequency_khz,
        frequency_khz_after=after.frequency_khz,
        temperature_c_before=before.temperature_c,
        temperature_c_after=after.temperature_c,
        load_average_before=before.load_average,
        load_average_after=after.load_average,
        drift=drift,
        throttled=drift > MAX_DRIFT or slower,
    )


def _numbers(folder: Path, pattern: str) -> list[int]:
    found = []
    for path in sorted(folder.glob(pattern)):
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    return found
