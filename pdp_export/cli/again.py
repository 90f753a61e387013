"""Runs one stage of a finished run again, with the recipe saved in it, and the report after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run_again(folder: Path, stage: str, flags: dict[str, Any], *, require_all: bool = False) -> int:
    """Run `stage` and all later ones of the run in `folder` again; print the report and return the exit code."""
    from pdp_export.cli.drawing import Drawing
    from pdp_export.cli.result_output import print_report
    from pdp_export.pipeline import api, manifest, run_directory
    from pdp_export.pipeline.runner import Selection

    recipe, command = run_directory.saved_recipe(folder), manifest.read(folder).command
    with Drawing(quiet=flags["quiet"], no_progress=flags["no_progress"], no_color=flags["no_color"]) as drawing:
        report = api.prune_and_convert(
            recipe,
            folder,
            selection=Selection(from_stage=stage),
            observer=drawing,
            command=command,
        )
    if report is None:
        return 0
    print_report(report, folder, flags)
    return api.exit_code(report, require_all=require_all)
