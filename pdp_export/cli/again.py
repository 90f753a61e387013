"""Runs one stage of a finished run again, with the recipe saved in it, and the report after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def is_run(path: Path) -> bool:
    """Whether a path is a run directory, not a model package."""
    return (path / "manifest.json").is_file()


def run_again(
    folder: Path,
    stage: str,
    flags: dict[str, Any],
    *,
    changes: dict[str, Any] | None = None,
    require_all: bool = False,
) -> int:
    """Run `stage` and all later ones of the run in `folder` again; print the report and return the exit code.

    Nothing is trained: earlier stages that are not up to date are an error. `changes` override the
    saved recipe.
    """
    from pdp_export.cli.drawing import Drawing
    from pdp_export.cli.result_output import print_report
    from pdp_export.pipeline import api, manifest, run_directory
    from pdp_export.pipeline.runner import Selection

    recipe, command = run_directory.saved_recipe(folder, changes), manifest.read(folder).command
    with Drawing(quiet=flags["quiet"], no_progress=flags["no_progress"], no_color=flags["no_color"]) as drawing:
        report = api.prune_and_convert(
            recipe,
            folder,
            selection=Selection(from_stage=stage, up_to_date=True),
            observer=drawing,
            command=command,
        )
    if report is None:
        return 0
    print_report(report, folder, flags)
    return api.exit_code(report, require_all=require_all)
