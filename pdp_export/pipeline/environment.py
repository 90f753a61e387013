"""What machine and which versions this run uses; nothing that identifies a person or a path."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdp_export.machine import cpu_name
from pdp_export.measurements import EnvironmentFacts

LIBRARIES = (
    "torch", "lightning-fabric", "numpy", "onnx", "onnxscript", "onnxruntime", "coremltools",
    "litert-torch", "ai-edge-litert", "MNN",
)  # fmt: skip


def tool_version() -> str:
    """Return the installed version of pdp-export."""
    try:
        return version("pdp-export")
    except PackageNotFoundError:
        return "0 (not installed)"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that can change a result; absent ones are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(threads: int | None = None, device: str = "cpu") -> EnvironmentFacts:
    """Return the facts about this machine that belong beside a measurement."""
    return EnvironmentFacts(
        os=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=cpu_name(),
        cpu_count=os.cpu_count() or 1,
        python=platform.python_version(),
        versions=library_versions(),
        threads=threads,
        device=device,
    )


def device_name(setting: str) -> str:
    """Return the device that a recipe's ``training.device`` means on this machine."""
    import torch

    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the user's repository around `folder`; (None, None) outside one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    return commit.strip(), bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))


def portable_command(arguments: list[str]) -> str:
    """Return the command line with the program's name only and every absolute path cut to its last part."""
    return shlex.join(["pdp-export", *(_portable(argument) for argument in arguments)])


def portable(value: Any) -> Any:
    """Return JSON data in which every absolute path is cut to its last part."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return _portable(value) if isinstance(value, str) else value


def _portable(argument: str) -> str:
    flag, text = re.fullmatch(r"(--[\w-]+=|-\w)?(.*)", argument, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    path, colon, function = text.partition(":")
    return f"{flag}{Path(path).name}{colon}{function}" if Path(path).is_absolute() else argument


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the user's own git, found on PATH
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
