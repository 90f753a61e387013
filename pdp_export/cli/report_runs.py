"""``pdp-export report RUN``: the table and the page of one run, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pdp_export.cli import options


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@options.output_options
def command(runs: tuple[str, ...], **flags: Any) -> int:
    """Print the table of a finished run again; several runs are shown side by side.

    With one run, report.html is written again from report.json.
    """
    import json

    from pdp_export.cli.drawing import stdout_console
    from pdp_export.cli.result_output import print_report
    from pdp_export.report import html_page, run_report, terminal_table

    reports = [run_report.read(Path(run)) for run in runs]
    if len(reports) == 1:
        folder = Path(runs[0]) if Path(runs[0]).is_dir() else Path(runs[0]).parent
        html_page.write(reports[0], folder)
        print_report(reports[0], folder, flags)
        return 0
    if flags["as_json"]:
        click.echo(json.dumps([report.model_dump(mode="json") for report in reports], indent=2))
        return 0
    stdout_console(no_color=flags["no_color"]).print(terminal_table.compare(reports))
    return 0
