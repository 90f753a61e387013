"""What this machine is, as far as it decides how fast something runs."""

from __future__ import annotations

import platform
from pathlib import Path

_VNNI = {"avx512_vnni", "avx_vnni", "avx_vnni_int8"}


def cpu_name() -> str:
    """Return the model name of the processor, or what the platform says of it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def saturates_bytes() -> bool:
    """Tell whether sums of products of 8-bit numbers overflow here: x86 without VNNI adds two of them in 16 bits.

    False where the system does not tell what the processor can do.
    """
    flags = set(_cpu_info("flags").split())
    return "ssse3" in flags and not _VNNI & flags


def cpu_capability() -> str:
    """Return the widest vector instructions that torch finds here, for example ``AVX2``."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def _cpu_info(key: str) -> str:
    """Return the value of the first such line of Linux's description of the processor; empty if there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
