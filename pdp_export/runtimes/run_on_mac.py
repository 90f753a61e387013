#!/usr/bin/env python3
"""Runs a Core ML package on this Mac (or on an iPhone or iPad connected to it) and writes result.json.

This file is copied into the folder that ``pdp-export validate --emit-mac-kit`` writes, and runs there alone::

    pip install coremltools numpy pillow
    python3 run_on_mac.py                             # this Mac: CPU, GPU, Neural Engine
    python3 run_on_mac.py --device iPhone --team ID   # a connected device as well (needs Xcode)

Send result.json back; ``pdp-export report RUN --merge result.json`` adds it to the report of the run. Only kit.json,
inputs.npz, expected.npz and the packages beside this file are read, and nothing but result.json is written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "pdp-export.mac-result/1"
UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")


def main(arguments: list[str], folder: Path | None = None) -> Path:
    """Run everything that was asked for; a part that fails is written down with its reason, the others go on."""
    options = _parser().parse_args(arguments)
    here = folder or Path(__file__).resolve().parent
    kit = json.loads((here / "kit.json").read_text(encoding="utf-8"))
    inputs, expected = dict(np.load(here / "inputs.npz")), dict(np.load(here / "expected.npz"))
    result: dict[str, Any] = {
        "format": FORMAT, "packages": kit["packages"], "machine": _machine(), "units": {}, "placement": [],
        "remote": [],
    }  # fmt: skip
    for unit in options.units:
        print(f"{unit} ...", flush=True)
        result["units"][unit] = _attempt(partial(_unit, here, kit, inputs, expected, unit, options))
    found = _attempt(lambda: {"operators": _placement(here / kit["packages"]["pruned"]["path"])})
    result["placement"] = found.get("operators", [])
    if "error" in found:
        result["placement_error"] = found["error"]
    if options.device:
        result["remote"] = [_attempt(lambda: asyncio.run(_remote(here, kit, options)))]
    path = here / "result.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"send back: {path}")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", nargs="+", choices=UNITS, default=list(UNITS))
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=30, help="interleaved blocks of 5 predictions per package")
    parser.add_argument("--device", choices=("iPhone", "iPad"), help="measure a connected device as well")
    parser.add_argument("--team", help="Apple development team, to sign the runner app")
    return parser


def _attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _machine() -> dict[str, str]:
    chip = _said(["sysctl", "-n", "machdep.cpu.brand_string"])
    model = _said(["sysctl", "-n", "hw.model"])
    import coremltools

    return {
        "chip": chip, "model": model, "macos": platform.mac_ver()[0], "python": platform.python_version(),
        "coremltools": coremltools.__version__,
    }  # fmt: skip


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _unit(
    here: Path, kit: dict[str, Any], inputs: dict[str, Any], expected: dict[str, Any], unit: str, options: Any
) -> dict[str, Any]:
    models, loads = {}, {}
    for role, package in kit["packages"].items():
        start = time.perf_counter()
        models[role] = _opened(here / package["path"], unit)
        loads[role] = round((time.perf_counter() - start) * 1e3, 3)
    feeds = [_feed(kit, inputs, number) for number in range(kit["samples"])]
    got = [models["pruned"].predict(feed) for feed in feeds]
    return {
        "load_ms": loads,
        "parity": _parity(kit, got, expected),
        "latency": _latency({role: _once(model, feeds[0]) for role, model in models.items()}, options),
    }


def _opened(path: Path, unit: str) -> Any:
    import coremltools as ct

    return ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, unit))


def _once(model: Any, feed: dict[str, Any]) -> Callable[[], Any]:
    return lambda: model.predict(feed)


def _feed(kit: dict[str, Any], inputs: dict[str, Any], number: int) -> dict[str, Any]:
    """Return one sample: arrays, and pictures where the package takes images."""
    feed = {}
    for item in kit["inputs"]:
        array = inputs[item["name"]][number : number + 1]
        feed[item["name"]] = picture(array[0], item["colour"]) if item["colour"] else array.astype(item["dtype"])
    return feed


def picture(pixels: Any, colour: str) -> Any:
    """Turn (C, H, W) pixels in the package's order of colours into a picture; Core ML restores that order itself."""
    from PIL import Image

    whole = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if colour == "GRAYSCALE":
        return Image.fromarray(whole[0])
    return Image.fromarray(np.ascontiguousarray((whole[::-1] if colour == "BGR" else whole).transpose(1, 2, 0)))


def _parity(kit: dict[str, Any], got: list[dict[str, Any]], expected: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in kit["outputs"]:
        wanted = expected[name].astype(np.float64)
        values = [in_order(one[name], kit["labels"]) for one in got]
        error = float(np.abs(np.stack(values).reshape(wanted.shape) - wanted).max())
        scale = float(np.abs(wanted).max())
        rows.append({"name": name, "max_abs": error, "relative_to_range": error / scale if scale else None})
    return rows


def in_order(value: Any, labels: list[str]) -> Any:
    """Return an output as a flat array; the scores of a classifier in the order of its labels."""
    if not isinstance(value, dict):
        return np.ravel(value)
    return np.array([value[label] if label in value else value[int(label)] for label in labels])


def _latency(runs: dict[str, Callable[[], Any]], options: Any) -> dict[str, Any]:
    """Measure the packages in turn, block by block; medians and p90 in milliseconds."""
    times: dict[str, list[float]] = {role: [] for role in runs}
    for run in runs.values():
        for _ in range(options.warmup):
            run()
    for _ in range(options.blocks):
        for role, run in runs.items():
            for _ in range(5):
                start = time.perf_counter()
                run()
                times[role].append((time.perf_counter() - start) * 1e3)
    return {
        role: {
            "p50_ms": statistics.median(values), "p90_ms": statistics.quantiles(values, n=10)[8],
            "runs": len(values), "samples_ms": [round(value, 4) for value in values],
        }
        for role, values in times.items()
    }  # fmt: skip


def _placement(path: Path) -> list[dict[str, Any]]:
    """Return, per operator, where Core ML means to run it and its estimated share of the cost."""
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    compiled = ct.models.utils.compile_model(str(path))
    plan = MLComputePlan.load_from_path(compiled, compute_units=ct.ComputeUnit.ALL)
    program = plan.model_structure.program
    rows = []
    for operation in program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        if usage is None:
            continue
        rows.append(
            {
                "operator": operation.operator_name,
                "name": operation.outputs[0].name if operation.outputs else "",
                "preferred": _device_name(usage.preferred_compute_device),
                "supported": [_device_name(device) for device in usage.supported_compute_devices],
                "cost": None if cost is None else cost.weight,
            }
        )
    return rows


def _device_name(device: Any) -> str:
    return type(device).__name__.removeprefix("ML").removesuffix("ComputeDevice")


async def _remote(here: Path, kit: dict[str, Any], options: Any) -> dict[str, Any]:
    """Measure loading and predicting on a connected device, with Apple's own (experimental) benchmark."""
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device, DeviceType

    devices = Device.get_connected_devices(DeviceType[options.device.upper()])
    if not devices:
        raise RuntimeError(f"no {options.device} is connected; see: xcrun devicectl list devices")
    credentials = AppSigningCredentials(
        development_team=options.team, provisioning_profile_uuid=None, bundle_identifier=None
    )
    device = await devices[0].prepare_for_model_debugging(credentials=credentials)
    found: dict[str, Any] = {"device": str(getattr(device, "name", options.device)), "latency": {}, "load_ms": {}}
    for role, package in kit["packages"].items():
        benchmarker = MLModelBenchmarker(model=_opened(here / package["path"], "ALL"), device=device)
        load = await benchmarker.benchmark_load(iterations=3)
        predict = await benchmarker.benchmark_predict(iterations=50, warmup=True)
        found["load_ms"][role] = load.statistics.median
        found["latency"][role] = {
            "p50_ms": predict.statistics.median, "p90_ms": statistics.quantiles(predict.samples, n=10)[8],
            "runs": len(predict.samples), "samples_ms": list(predict.samples),
        }  # fmt: skip
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
