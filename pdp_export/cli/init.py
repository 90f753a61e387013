"""``pdp-export init``: a commented recipe and a task file that runs as it is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from pdp_export.cli import options

_NAMES = ("recipe.yaml", "task.py")


@click.command("init")
@click.option("-o", "--output", type=click.Path(), default=".", show_default=True, help="Folder to write into.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@options.output_options
def command(output: str, force: bool, **flags: Any) -> int:
    """Write recipe.yaml (every key, commented) and task.py (model and data, to be replaced by yours)."""
    import json

    from pdp_export.errors import UsageError
    from pdp_export.files import write_text

    folder = Path(output)
    existing = [name for name in _NAMES if (folder / name).exists()]
    if existing and not force:
        raise UsageError(
            f"{', '.join(existing)} exists already in {folder.name or '.'}",
            where="--output",
            hint="use --force to overwrite, or another --output",
        )
    for name in _NAMES:
        write_text(folder / name, files("pdp_export.cli").joinpath("starter", name).read_text(encoding="utf-8"))
    if flags["as_json"]:
        click.echo(json.dumps({"written": [str(folder / name) for name in _NAMES]}))
        return 0
    click.echo(f"wrote {folder / 'recipe.yaml'} and {folder / 'task.py'}")
    click.echo(f"next: edit both, then pdp-export prune-and-convert --recipe {folder / 'recipe.yaml'}")
    return 0
