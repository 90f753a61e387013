"""``pdp-export validate``: a file against a PyTorch program, or a whole run again from the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdp_export.cli import options
from pdp_export.cli.again import is_run, run_again
from pdp_export.cli.arrays import read

if TYPE_CHECKING:
    from pdp_export.pipeline.api import FileVerdict


@click.command("validate")
@click.argument("file", type=click.Path())
@click.option("--reference", type=click.Path(), metavar="PATH", help="The .pt2 program that the file was made from.")
@click.option(
    "--inputs", type=click.Path(), metavar="NPZ", help="Inputs by name, model layout. [default: 8 random samples]"
)
@click.option("--atol", type=float, help="Largest error, relative to max|y|. [default: the target's]")
@click.option("--expected", type=click.Path(), metavar="NPZ", help="Outputs to compare with, in place of --reference.")
@click.option("--save-outputs", type=click.Path(), metavar="NPZ", help="Write what the file computed (no --reference).")
@click.option("--emit-mac-kit", type=click.Path(), metavar="DIR", help="coreml: write what a colleague runs on a Mac.")
@click.option("--require-all-checks", is_flag=True, help="Exit 10 when a check did not run.")
@options.output_options
def command(
    file: str,
    reference: str | None,
    inputs: str | None,
    atol: float | None,
    expected: str | None,
    save_outputs: str | None,
    emit_mac_kit: str | None,
    require_all_checks: bool,
    **flags: Any,
) -> int:
    """Compare stored weights bit by bit and outputs within a tolerance.

    FILE is a model file (with --reference) or a run directory, whose files are all checked again. A file that somebody
    else wrote is run alone: with --inputs and --expected its outputs are compared, without them they are told.
    """
    from pdp_export.cli import validate_file

    if emit_mac_kit is not None:
        return _emit(Path(file), reference, inputs, atol, Path(emit_mac_kit))
    if is_run(Path(file)):
        return _validate_run(
            Path(file), flags, require_all_checks, {"--reference": reference, "--inputs": inputs}, atol
        )
    from pdp_export.errors import CheckNotRunError, CostGateError, ParityGateError, UsageError
    from pdp_export.graph.archive import load_program
    from pdp_export.pipeline import api
    from pdp_export.results import Verdict
    from pdp_export.runtimes.registry import name_for
    from pdp_export.validation import isolated

    if reference is None:
        return validate_file.run_alone(Path(file), inputs, expected, save_outputs, atol, flags)
    if expected is not None or save_outputs is not None:
        raise UsageError("the reference gives the outputs to compare with", where="--expected, --save-outputs")
    program = load_program(Path(reference))
    names = [spec.name for spec in isolated.describe(name_for(Path(file)), Path(file)).inputs] if inputs else []
    found = api.validate(file, reference=program, inputs=_inputs(program, inputs, names), atol=atol)
    _print(Path(file), found, flags)
    if found.verdict is Verdict.FAIL:
        verdicts = [item.verdict for item in found.parity] + ([found.weights.verdict] if found.weights else [])
        differs = Verdict.FAIL in verdicts
        return ParityGateError.exit_code if differs or not found.expanded else CostGateError.exit_code
    return CheckNotRunError.exit_code if require_all_checks and found.verdict is Verdict.NOT_RUN else 0


def _emit(path: Path, reference: str | None, inputs: str | None, atol: float | None, folder: Path) -> int:
    """Write the Mac kit for a package and its program, both of a run where a run directory is given."""
    from pdp_export.cli import validate_file
    from pdp_export.errors import UsageError

    if is_run(path):
        from pdp_export.pipeline.outputs import PRUNED_PROGRAM

        found = sorted((path / "stages").glob(f"*-remove-channels/{PRUNED_PROGRAM}"))
        path, reference = path / "artifacts" / "model.mlpackage", reference or (str(found[0]) if found else None)
    if reference is None:
        raise UsageError(
            "expected outputs come from the program that the package was made from",
            where="--reference",
            hint="give --reference model.pt2",
        )
    validate_file.emit_kit(path, reference, inputs, atol, folder)
    return 0


def _validate_run(
    folder: Path, flags: dict[str, Any], require_all: bool, own: dict[str, str | None], atol: float | None
) -> int:
    from pdp_export.errors import UsageError

    given = [flag for flag, value in own.items() if value is not None]
    if given:
        raise UsageError(
            f"a run is compared with its own program and validation data, not with {', '.join(given)}",
            where=", ".join(given),
            hint="leave it out, or give one model file instead of the run directory",
        )
    changes = {"gates.atol": atol} if atol is not None else None
    return run_again(folder, "validate", flags, changes=changes, require_all=require_all)


def _inputs(program: Any, path: str | None, file_names: Sequence[str]) -> tuple[Any, ...]:
    """Return the arrays of an .npz by the names of the program's inputs, or by those of the file's."""
    import torch

    from pdp_export.errors import DataError
    from pdp_export.pipeline.program_io import input_specs, random_inputs

    if path is None:
        return random_inputs(program)
    own, arrays = [spec.name for spec in input_specs(program)], read(path, "--inputs")
    names = next((names for names in (own, file_names) if set(names) == set(arrays)), None)
    if names is None:
        raise DataError(
            f"{Path(path).name} holds {', '.join(arrays) or 'nothing'}, the inputs are {', '.join(own)} (program) or "
            f"{', '.join(file_names)} (file)",
            where="--inputs",
            hint="save one array for each input, by its name: numpy.savez(path, name=array)",
        )
    return tuple(torch.from_numpy(arrays[name]) for name in names)


def _print(path: Path, found: FileVerdict, flags: dict[str, Any]) -> None:
    import json

    if flags["as_json"]:
        weights = found.weights.model_dump(mode="json") if found.weights else None
        parity = [item.model_dump(mode="json") for item in found.parity]
        click.echo(
            json.dumps(
                {
                    "file": path.name,
                    "verdict": found.verdict,
                    "reasons": found.reasons,
                    "parity": parity,
                    "weights": weights,
                },
                indent=2,
            )
        )
        return
    click.echo(f"{path.name}: {found.verdict.replace('_', ' ')}")
    if found.weights:
        check = found.weights
        click.echo(
            f"  weights {check.verdict}: {check.tensors_compared} tensors, {check.elements:,} elements, "
            f"{check.differing_elements} differ, {check.zeros_found:,} zeros"
        )
    for item in found.parity:
        click.echo(
            f"  {item.name} {item.verdict}: max abs {item.max_abs:.2e}, "
            f"relative to range {item.relative_to_range:.2e}, limit {item.atol:g}"
            if item.max_abs is not None and item.relative_to_range is not None
            else f"  {item.name} {item.verdict}"
        )
    for reason in found.reasons:
        click.echo(f"  {reason}")
