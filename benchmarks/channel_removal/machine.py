"""What a row says about the machine and the libraries that made it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

_SETS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "neon", "asimd")
_LIBRARIES = (
    "torch", "numpy", "onnx", "onnxruntime", "torch-pruning", "apple-upscale", "MNN", "ai-edge-litert", "pdp-export",
)  # fmt: skip


@cache
def environment() -> dict[str, Any]:
    """Return processor, vector instructions, block of channels, threads and versions."""
    info = _cpu_info()
    instructions = [name for name in _SETS if name in info.get("flags", info.get("Features", "")).split()]
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "instructions": instructions,
        "block": block(instructions),
        "threads": 1,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def block(instructions: list[str]) -> int:
    """Return how many channels ONNX Runtime's blocked kernels take at once."""
    return 16 if "avx512f" in instructions else 8


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
