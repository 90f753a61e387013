"""``pdp-export doctor``: what works on this machine, and with which versions it was tested."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import click

from pdp_export.cli import options

# The versions of requirements.lock: what the tests ran with.
TESTED = {
    "torch": "2.13.0", "lightning-fabric": "2.6.6", "numpy": "2.4.6", "onnx": "1.23.2", "onnxscript": "0.7.2",
    "onnxruntime": "1.32.0", "coremltools": "9.0", "litert-torch": "0.10.0", "ai-edge-litert": "2.3.0", "MNN": "3.6.1",
}  # fmt: skip


@click.command("doctor")
@options.output_options
def command(**flags: Any) -> int:
    """Tell which targets can be written, run and measured on this machine, and whether it is a tested one."""
    from rich.markup import escape
    from rich.table import Table

    from pdp_export.cli.drawing import stdout_console

    here, found, writable = _platform(), _libraries(), _targets()
    if flags["as_json"]:
        click.echo(json.dumps({"platform": here, "libraries": found, "targets": writable}, indent=2))
        return 0
    console = stdout_console(no_color=flags["no_color"])
    click.echo(f"{here['system']}, Python {here['python']}: {here['support']}")
    libraries = Table("library", "installed", "tested with", "", box=None)
    for name, row in found.items():
        libraries.add_row(name, row["installed"] or "-", row["tested"], row["note"])
    console.print(libraries)
    targets = Table("target", "write", "run here", "next step", box=None)
    for name, row in writable.items():
        targets.add_row(name, row["write"], row["run"], escape(row["next"]))
    console.print(targets)
    return 0


def _platform() -> dict[str, str]:
    system = platform.system()
    tested = system == "Linux" and sys.version_info[:2] == (3, 11) and platform.machine() == "x86_64"
    support = "tested" if tested else "untested: should work as far as the libraries offer wheels"
    return {"system": f"{system} {platform.machine()}", "python": platform.python_version(), "support": support}


def _libraries() -> dict[str, dict[str, str]]:
    from pdp_export.pipeline.environment import library_versions

    found = library_versions()
    rows = {}
    for name, tested in TESTED.items():
        installed = found.get(name, "").split("+")[0]
        note = "" if installed == tested else "not installed" if not installed else "another version than tested"
        rows[name] = {"installed": installed, "tested": tested, "note": note}
    return rows


def _targets() -> dict[str, dict[str, str]]:
    from pdp_export.converters import registry
    from pdp_export.errors import MissingDependencyError

    rows = {}
    for name in registry.MODULES:
        target = registry.load(name).TARGET
        try:
            target.require()
        except MissingDependencyError as error:
            rows[name] = {"write": "no", "run": "no", "next": str(error.hint)}
            continue
        interpreted = name == "coreml" and platform.system() != "Darwin"
        rows[name] = {
            "write": "yes", "run": "interpreted" if interpreted else "yes",
            "next": "outputs are checked here by our own interpreter; latency needs a Mac" if interpreted else "",
        }  # fmt: skip
    return rows
