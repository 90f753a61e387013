"""The command ``pdp-export``: finds the sub-command, maps errors to messages and exit codes."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from pdp_export.errors import PdpExportError

COMMANDS = {
    "prune-and-convert": "pdp_export.cli.prune_and_convert",
    "prune": "pdp_export.cli.prune",
    "convert": "pdp_export.cli.convert",
    "validate": "pdp_export.cli.validate",
    "bench": "pdp_export.cli.bench",
    "inspect": "pdp_export.cli.inspect_file",
    "report": "pdp_export.cli.report_runs",
    "doctor": "pdp_export.cli.doctor",
    "init": "pdp_export.cli.init",
}
_INTERRUPTED = 130


class Commands(click.Group):
    """Loads a sub-command when it is asked for, in the order of the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the main job."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Add near misses to click's own message."""
        from pdp_export.errors import near_misses

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{near_misses(args[0], COMMANDS)}.")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pdp-export")
def program() -> None:
    """Take a trained PyTorch network to a phone, smaller and faster, and prove nothing was lost.

    Start with `pdp-export init`, then `pdp-export prune-and-convert --recipe recipe.yaml`.
    """


def main() -> None:
    """Entry point: run the command and exit with its code."""
    debug = "--debug" in sys.argv
    try:
        code = program.main(standalone_mode=False)
    except PdpExportError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Error: interrupted", err=True)
        sys.exit(_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        click.echo(f"Error: {error.strerror or error}\n  where: {error.filename or program.name}", err=True)
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"Error: unexpected {type(error).__name__}: {error}\n"
            "  next:  this is a fault of pdp-export; run again with --debug and report it",
            err=True,
        )
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
