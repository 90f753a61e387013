"""``pdp-export prune-and-convert``: the whole job."""

from __future__ import annotations

import sys
from typing import Any

import click

from pdp_export.cli import options


@click.command("prune-and-convert")
@options.recipe_options
@options.target_options
@options.gate_options
@options.run_options
@options.output_options
def command(**flags: Any) -> int:
    """Train with PDP, harden, remove channels, convert, validate and report.

    Exit codes: 0 all set gates passed, 2 usage, 3 missing package, 4 conversion, 5 parity, 6 accuracy,
    7 latency or size, 9 a gate is inconclusive, 10 a required check did not run, 11 training stopped,
    12 a proof failed, 130 interrupted.
    """
    from pdp_export.cli.drawing import Drawing
    from pdp_export.cli.recipes import load_recipe, run_folder
    from pdp_export.cli.result_output import print_plan, print_report, print_stages
    from pdp_export.pipeline import api
    from pdp_export.pipeline.environment import portable_command
    from pdp_export.pipeline.runner import Selection

    recipe = load_recipe(flags)
    if flags["dry_run"]:
        print_plan(api.plan(recipe), flags)
        return 0
    if api.followed(recipe):
        return 0
    folder = run_folder(flags, recipe)
    selection = Selection(only=flags["only"], from_stage=flags["from_stage"])
    with Drawing(quiet=flags["quiet"], no_progress=flags["no_progress"], no_color=flags["no_color"]) as drawing:
        report = api.prune_and_convert(
            recipe, folder, resume=flags["resume"], force=flags["force"], selection=selection,
            observer=drawing, command=portable_command(sys.argv[1:]),
        )  # fmt: skip
    if report is None:
        print_stages(folder, flags)
        return 0
    print_report(report, folder, flags)
    return api.exit_code(report, require_all=flags["require_all_checks"])
