"""Prints results on stdout: a table for people, one JSON object for machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdp_export.cli.drawing import stdout_console

if TYPE_CHECKING:
    from pdp_export.pipeline.manifest import Manifest
    from pdp_export.pipeline.plan import Plan
    from pdp_export.report.run_report import RunReport
    from pdp_export.targets import Effect

_WORDS = {True: "yes", False: "no", None: "depends"}


def print_report(report: RunReport, folder: Path, flags: dict[str, Any]) -> None:
    """Print the closing table of a run, or its whole report as JSON."""
    if flags["as_json"]:
        click.echo(report.model_dump_json(indent=2))
        return
    from pdp_export.report import terminal_table

    stdout_console(no_color=flags["no_color"]).print(terminal_table.closing(report, folder))


def print_stage(book: Manifest, folder: Path, flags: dict[str, Any]) -> None:
    """Print what `pdp-export prune` left: its last stage and where the files are."""
    if flags["as_json"]:
        click.echo(book.model_dump_json(indent=2))
        return
    for name in ("train-dense", "harden", "remove-channels"):
        if name in book.stages:
            click.echo(f"{name}: {book.stages[name].result.summary}")
    click.echo(f"program: {folder / 'stages/05-remove-channels/model.pt2'}")
    click.echo(f"weights: {folder / 'stages/04-harden/model.safetensors'}")
    click.echo(f"next: pdp-export prune-and-convert --recipe ... --output {folder} --resume")


def print_stages(folder: Path, flags: dict[str, Any]) -> None:
    """Print the manifest as JSON when a run ended before its report; people have read its lines on stderr."""
    if flags["as_json"]:
        from pdp_export.pipeline import manifest

        click.echo(manifest.read(folder).model_dump_json(indent=2))


def print_plan(plan: Plan, flags: dict[str, Any]) -> None:
    """Print a dry run."""
    if flags["as_json"]:
        click.echo(plan.model_dump_json(indent=2))
        return
    from rich.table import Table

    from pdp_export.report import formatting

    console = stdout_console(no_color=flags["no_color"])
    click.echo(
        f"{plan.name}: {plan.goal} on {plan.masks} masks; "
        f"{formatting.count(plan.params)} params, {formatting.count(plan.macs)} MACs"
    )
    for index, stage in enumerate(plan.stages, 1):
        click.echo(f"  [{index}/{len(plan.stages)}] {stage.name}: {stage.reason}")
    table = Table("target", "size", "RAM", "speed", "weights now", "predicted", box=None)
    for item in plan.targets:
        effects = item.effects
        predicted = f"{item.predicted_bytes / 1e3:,.0f} kB" if item.predicted_bytes is not None else "no formula"
        words = [_WORDS[effect.expected] for effect in (effects.size, effects.ram, effects.speed)]
        table.add_row(f"{item.target} {item.precision}", *words, f"{item.dense_bytes / 1e3:,.0f} kB", predicted)
    console.print(table)
    for item in plan.targets:
        for name, effect in (("size", item.effects.size), ("RAM", item.effects.ram), ("speed", item.effects.speed)):
            click.echo(f"  {item.target} {name}: {_word(effect)}")
    for skipped in plan.skipped:
        click.echo(f"  left dense: {skipped.layer}: {skipped.reason}")
    click.echo("Predicted from what is asked for alone; nothing was trained or written.")


def _word(effect: Effect) -> str:
    return f"{_WORDS[effect.expected]} ({effect.why})"
