"""``pdp-export prune``: train, harden and remove channels; no conversion."""

from __future__ import annotations

import sys
from typing import Any

import click

from pdp_export.cli import options


@click.command("prune")
@options.recipe_options
@options.run_options
@options.output_options
def command(**flags: Any) -> int:
    """Train with PDP, harden the masks and remove dead channels; writes model.pt2 and model.safetensors.

    Goes on later with: pdp-export prune-and-convert --recipe ... --output SAME --resume
    """
    from pdp_export.cli.drawing import Drawing
    from pdp_export.cli.recipes import load_recipe, run_folder
    from pdp_export.cli.result_output import print_plan, print_stage
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
    selection = Selection(only=flags["only"], from_stage=flags["from_stage"], until="remove-channels")
    with Drawing(quiet=flags["quiet"], no_progress=flags["no_progress"], no_color=flags["no_color"]) as drawing:
        book = api.run_until(
            recipe, folder, resume=flags["resume"], force=flags["force"], selection=selection,
            observer=drawing, command=portable_command(sys.argv[1:]),
        )  # fmt: skip
    print_stage(book, folder, flags)
    return 0
