"""What this machine is, as far as it decides how fast something runs."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """Return the model name of the processor, or what the platform says of it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_capability() -> str:
    """Return the widest vector instructions that torch finds here, for example ``AVX2``."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())
