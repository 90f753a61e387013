"""``pdp-export report RUN``: the table and the page of one run, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pdp_export.cli import options


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option(
    "--merge", "merge", multiple=True, type=click.Path(), metavar="JSON",
    help="result.json that a Mac sent back (see validate --emit-mac-kit); repeatable, one run only.",
)  # fmt: skip
@options.output_options
def command(runs: tuple[str, ...], merge: tuple[str, ...], **flags: Any) -> int:
    """Print the table of a finished run again; several runs are shown side by side.

    With one run, report.html is written again from report.json, with what --merge adds.
    """
    import json

    from pdp_export.cli.drawing import stdout_console
    from pdp_export.cli.result_output import print_report
    from pdp_export.errors import UsageError
    from pdp_export.report import html_page, mac_results, run_report, terminal_table

    if merge and len(runs) != 1:
        raise UsageError(f"--merge belongs to one run, {len(runs)} are given", where="--merge")
    reports = [run_report.read(Path(run)) for run in runs]
    folders = [Path(run) if Path(run).is_dir() else Path(run).parent for run in runs]
    if len(reports) == 1:
        (folder,) = folders
        for path in merge:
            reports = [mac_results.merged(reports[0], folder, Path(path))]
        if merge:
            run_report.write(reports[0], folder)
        html_page.write(reports[0], folder)
        print_report(reports[0], folder, flags)
        return 0
    if flags["as_json"]:
        click.echo(json.dumps([report.model_dump(mode="json") for report in reports], indent=2))
        return 0
    stdout_console(no_color=flags["no_color"]).print(terminal_table.compare(reports, folders))
    return 0
