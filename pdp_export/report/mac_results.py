"""Folds result.json, which ``run_on_mac.py`` wrote on a Mac, into the report of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pdp_export import files
from pdp_export.errors import FileError, UsageError
from pdp_export.measurements import DeviceResult, Placement, UnitResult
from pdp_export.report.run_report import RunReport

FORMAT = "pdp-export.mac-result/1"
_TARGET = "coreml"
_WANTED = "give the result.json that run_on_mac.py of the Mac kit wrote"
_LARGEST_BYTES = 64 << 20


def merged(report: RunReport, folder: Path, path: Path) -> RunReport:
    """Return the report with what the Mac measured beside its Core ML target; verdicts and gates stay as they are.

    Raises:
        UsageError: when the run has no Core ML package, or the result belongs to another one.
        FileError: for a file that is no such result.
    """
    values = _read(path)
    targets = list(report.targets)
    place = next((n for n, target in enumerate(targets) if target.target == _TARGET), None)
    if place is None:
        raise UsageError(f"run {report.name} has no Core ML package", where="--merge")
    package = folder / targets[place].file
    claimed = _text(_inner(_inner(values, "packages"), "pruned"), "sha256")
    if not package.exists() or files.sha256(package) != claimed:
        raise UsageError(
            f"{path.name} was measured with another package than {targets[place].file}",
            where="--merge",
            hint="give the run whose package lay in the kit",
        )
    found = _devices(values, path)
    known = {device.machine for device in found}
    kept = tuple(device for device in targets[place].devices if device.machine not in known)
    targets[place] = targets[place].model_copy(update={"devices": (*kept, *found)})
    return report.model_copy(update={"targets": tuple(targets)})


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise FileError(f"{path.name} has more than {_LARGEST_BYTES} bytes", where="--merge")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path.name} cannot be read: {error.strerror}", where="--merge", hint=_WANTED) from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path.name} is no JSON", where="--merge", hint=_WANTED) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise FileError(f"{path.name} is no result of a Mac kit", where="--merge", hint=_WANTED)
    return values


def _devices(values: Mapping[str, Any], path: Path) -> tuple[DeviceResult, ...]:
    machine = _inner(values, "machine")
    system, version = f"macOS {_text(machine, 'macos')}", _text(machine, "coremltools")
    name = _text(machine, "chip") or _text(machine, "model") or "a Mac"
    try:
        mac = DeviceResult(
            machine=name, system=system, coremltools=version,
            units=tuple(_unit(key, _inner(_inner(values, "units"), key)) for key in _inner(values, "units")),
            placement=_placement(values.get("placement", [])),
        )  # fmt: skip
        remote = [
            DeviceResult(
                machine=_text(item, "device") or "a connected device", system=f"through {name}", coremltools=version,
                units=(_unit("ALL", item),),
            )
            for item in values.get("remote", [])
        ]  # fmt: skip
    except (ValidationError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path.name} is damaged: {str(error).splitlines()[0]}", where="--merge") from error
    return (mac, *remote)


def _unit(name: str, values: Mapping[str, Any]) -> UnitResult:
    if values.get("error"):
        return UnitResult(units=name, error=_text(values, "error"))
    latency = _inner(values, "latency")
    errors = [row["relative_to_range"] for row in values.get("parity", [])]
    return UnitResult(
        units=name,
        relative_error=max((_number(error) for error in errors if error is not None), default=None),
        p50_ms={role: _number(row["p50_ms"]) for role, row in latency.items()},
        p90_ms={role: _number(row["p90_ms"]) for role, row in latency.items()},
        load_ms={role: _number(value) for role, value in _inner(values, "load_ms").items()},
        runs=min((int(row["runs"]) for row in latency.values()), default=0),
    )


def _placement(rows: list[Mapping[str, Any]]) -> tuple[Placement, ...]:
    counts: dict[str, int] = {}
    costs: dict[str, float] = {}
    for row in rows:
        device = _text(row, "preferred")
        counts[device] = counts.get(device, 0) + 1
        costs[device] = costs.get(device, 0.0) + _number(row.get("cost") or 0.0)
    return tuple(Placement(device=name, operators=counts[name], cost=costs[name]) for name in sorted(counts))


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number


def _inner(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key, {})
    return found if isinstance(found, Mapping) else {}


def _text(values: Mapping[str, Any], key: str) -> str:
    return str(values.get(key, ""))[:200]
