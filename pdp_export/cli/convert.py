"""``pdp-export convert``: one program that exists already becomes one file per target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pdp_export.cli import options
from pdp_export.cli.recipes import OWN


@click.command("convert")
@click.option(
    "--model",
    required=True,
    metavar="PATH",
    type=click.Path(),
    help="A .pt2 program, for example stages/05-remove-channels/model.pt2.",
)
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder for the files.")
@click.option(
    "--input", "input_names", multiple=True, metavar="NAME", help="Names of the inputs, in order (repeatable)."
)
@click.option(
    "--output-name", "output_names", multiple=True, metavar="NAME", help="Names of the outputs, in order (repeatable)."
)
@click.option("--name", default="model", show_default=True, help="File name without suffix.")
@options.target_options
@options.output_options
def command(
    model: str, output: str, input_names: tuple[str, ...], output_names: tuple[str, ...], name: str, **flags: Any
) -> int:
    """Convert a captured .pt2 program (zeros in its weights are kept) to one file per target."""
    import json

    from pdp_export.converters import registry
    from pdp_export.errors import UsageError
    from pdp_export.graph.archive import load_program
    from pdp_export.pipeline import api
    from pdp_export.pipeline.program_io import random_inputs
    from pdp_export.removal import simplify

    targets = flags["targets"]
    if not targets:
        raise UsageError("no target given", where="--target", hint=f"use one of: {', '.join(registry.MODULES)}")
    for target in targets:
        registry.load(target).TARGET.require()
    loaded = load_program(Path(model))
    program = simplify(loaded, random_inputs(loaded))
    own: dict[str, dict[str, Any]] = {}
    for flag, owner in OWN.items():
        own.setdefault(owner, {})[flag] = flags[flag]
    rows = []
    for target in targets:
        given = {key: value for key, value in own.get(target, {}).items() if value is not None}
        path = Path(output) / f"{name}{registry.load(target).TARGET.suffix}"
        artifact = api.convert(
            program, path, target=target, encoding=flags["encoding"] or "auto", precision=flags["precision"],
            input_names=input_names, output_names=output_names, options=given,
        )  # fmt: skip
        facts = artifact.facts
        rows.append(
            {
                "target": target,
                "file": str(path),
                "size_bytes": facts.file_bytes,
                "encodings": facts.encodings,
                "zeros": facts.zeros,
            }
        )
    if flags["as_json"]:
        click.echo(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        click.echo(
            f"{row['target']}: {row['file']}, {row['size_bytes']:,} bytes, {row['zeros']:,} zeros, {row['encodings']}"
        )
    click.echo(f"next: pdp-export validate {rows[0]['file']} --reference {model}")
    return 0
