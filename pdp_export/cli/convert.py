"""``pdp-export convert``: one program that exists already becomes one file per target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdp_export.cli import options
from pdp_export.cli.arrays import read
from pdp_export.cli.recipes import OWN

if TYPE_CHECKING:
    from pdp_export.results import FileFacts


@click.command("convert")
@click.option(
    "--model",
    metavar="PATH",
    type=click.Path(),
    help="A .pt2 program, for example stages/05-remove-channels/model.pt2.",
)
@click.option("--expand", metavar="FILE", type=click.Path(), help="An .onnx file; its weights are written densely.")
@click.option("--ort", metavar="FILE", type=click.Path(), help="An .onnx file; it is written as .ort for phones.")
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder for the files.")
@click.option(
    "--input", "input_names", multiple=True, metavar="NAME", help="Names of the inputs, in order (repeatable)."
)
@click.option(
    "--output-name", "output_names", multiple=True, metavar="NAME", help="Names of the outputs, in order (repeatable)."
)
@click.option("--name", default="model", show_default=True, help="File name without suffix.")
@click.option("--calibration", metavar="NPZ", type=click.Path(), help="Real samples by input name, for int8.")
@options.program_target_options
@options.output_options
def command(
    model: str | None, expand: str | None, ort: str | None, output: str, input_names: tuple[str, ...],
    output_names: tuple[str, ...], name: str, calibration: str | None, **flags: Any,
) -> int:  # fmt: skip
    """Convert a captured .pt2 program (zeros in its weights are kept) to one file per target.

    With --expand instead of --model, the sparse weights of an .onnx file become plain ones, bit by bit, for runtimes
    that do not fold their decoders (TensorRT, ncnn). With --ort the file is written as .ort, sparse weights kept
    sparse, with the configuration of a reduced build beside it.
    """
    from pdp_export.errors import UsageError

    if [model, expand, ort].count(None) != 2:  # noqa: PLR2004  one of the three
        raise UsageError("give either a program or an .onnx file", where="--model, --expand, --ort")
    if model is not None:
        return _convert(model, Path(output), input_names, output_names, name, calibration, flags)
    coordinates = ort is not None and flags["encoding"] == "coo"  # what .ort holds anyway
    if flags["targets"] or flags["precision"] or (flags["encoding"] and not coordinates):
        raise UsageError("--expand and --ort write the same model again and take no target", where="--expand, --ort")
    return _again(expand, ort, Path(output) / name, flags)


def _again(expand: str | None, ort: str | None, path: Path, flags: dict[str, Any]) -> int:
    """Write an .onnx file again, densely or as .ort."""
    from pdp_export.pipeline import onnx_files

    if expand is not None:
        written = path.with_name(f"{path.name}.onnx")
        facts = onnx_files.expand(Path(expand), written)
        return _print([_row("onnx", written, facts)], flags, Path(expand))
    made = onnx_files.to_ort(Path(str(ort)), path.with_name(f"{path.name}.ort"))
    row = {
        "target": "ort", "file": str(made.path), "size_bytes": made.size_bytes, "sparse_weights": made.sparse,
        "config": str(made.config),
    }  # fmt: skip
    text = f"ort: {made.path}, {made.size_bytes:,} bytes, {made.sparse} weights kept sparse; build with {made.config}"
    click.echo(json.dumps([row], indent=2) if flags["as_json"] else text)
    return 0


def _convert(
    model: str, output: Path, input_names: tuple[str, ...], output_names: tuple[str, ...], name: str,
    calibration: str | None, flags: dict[str, Any],
) -> int:  # fmt: skip
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
    samples = read(calibration, "--calibration") if calibration else None
    rows = []
    for target in targets:
        given = {key: value for key, value in own.get(target, {}).items() if value is not None}
        path = output / f"{name}{registry.load(target).TARGET.suffix}"
        artifact = api.convert(
            program, path, target=target, encoding=flags["encoding"] or "auto", precision=flags["precision"],
            input_names=input_names, output_names=output_names, options=given, calibration=samples,
        )  # fmt: skip
        rows.append(_row(target, path, artifact.facts))
    return _print(rows, flags, Path(model))


def _row(target: str, path: Path, facts: FileFacts) -> dict[str, Any]:
    return {
        "target": target,
        "file": str(path),
        "size_bytes": facts.file_bytes,
        "encodings": facts.encodings,
        "zeros": facts.zeros,
    }


def _print(rows: list[dict[str, Any]], flags: dict[str, Any], source: Path) -> int:
    if flags["as_json"]:
        click.echo(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        click.echo(
            f"{row['target']}: {row['file']}, {row['size_bytes']:,} bytes, {row['zeros']:,} zeros, {row['encodings']}"
        )
    if source.suffix == ".pt2":
        click.echo(f"next: pdp-export validate {rows[0]['file']} --reference {source}")
    return 0
