"""``pdp-export inspect FILE``: what a written file really holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdp_export.cli import options

if TYPE_CHECKING:
    from pdp_export.results import FileFacts, TensorSpec
    from pdp_export.targets import Target
    from pdp_export.validation.treatment import Treatment

_SHOWN_METADATA = 100


@click.command("inspect")
@click.argument("file", type=click.Path())
@click.option("--all", "all_tensors", is_flag=True, help="List every tensor, not only the 40 largest.")
@options.output_options
def command(file: str, all_tensors: bool, **flags: Any) -> int:
    """Show tensors, encodings, dtypes, zeros and bytes of a .onnx, .ort, .mlpackage, .tflite or .mnn file.

    For each weight also what its zeros buy in that file's runtime: bytes on disk, memory, time. Everything is read
    from the file's own bytes by a child process with time and memory limits.
    """
    import json

    from pdp_export.validation.treatment import treatments

    path = Path(file)
    facts, target = _facts(path)
    treated = treatments(facts, target)
    if flags["as_json"]:
        whole = {**facts.model_dump(mode="json"), "treatments": [item.model_dump(mode="json") for item in treated]}
        click.echo(json.dumps(whole, indent=2))
    else:
        _print(path, facts, {item.name: item for item in treated}, all_tensors, flags["no_color"])
    return 0


def _facts(path: Path) -> tuple[FileFacts, Target]:
    """Return what a file holds, and what its runtime does with it."""
    from pdp_export.converters import registry
    from pdp_export.converters.onnx_export import ORT
    from pdp_export.pipeline.onnx_files import describe_ort
    from pdp_export.runtimes.registry import name_for
    from pdp_export.validation.isolated import describe

    if path.suffix == ORT.suffix:
        return describe_ort(path), ORT
    name = name_for(path, also=(ORT.suffix,))
    return describe(name, path), registry.load(name).TARGET


def _print(path: Path, facts: FileFacts, treated: dict[str, Treatment], all_tensors: bool, no_color: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from pdp_export.cli.drawing import stdout_console

    console = stdout_console(no_color=no_color)
    share = facts.zeros / facts.elements if facts.elements else 0.0
    _say(f"{path.name}: {facts.format}, {facts.file_bytes:,} bytes, {share:.1%} of {facts.elements:,} weights are zero")
    _say(f"  inputs   {_specs(facts.inputs)}")
    _say(f"  outputs  {_specs(facts.outputs)}")
    _say(f"  encodings {', '.join(f'{name} x{count}' for name, count in sorted(facts.encodings.items()))}")
    _say(f"  operators {', '.join(f'{name} x{count}' for name, count in sorted(facts.operators.items()))}")
    for key, value in sorted(facts.metadata.items()):
        _say(f"  {key} = {value[:_SHOWN_METADATA]}")
    for note in facts.notes:
        _say(f"  note: {note}")
    table = Table("tensor", "shape", "dtype", "stored as", "zeros", "bytes", "zeros save", box=None)
    tensors = sorted(facts.tensors, key=lambda tensor: -tensor.stored_bytes)
    shown = tensors if all_tensors else tensors[:40]
    for tensor in shown:
        zeros = f"{tensor.zeros / tensor.elements:.1%}" if tensor.elements else "-"
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        table.add_row(
            escape(_printable(tensor.name)),
            shape,
            tensor.dtype,
            f"{tensor.encoding} {tensor.stored_dtype}",
            zeros,
            f"{tensor.stored_bytes:,}",
            _saved(treated.get(tensor.name)),
        )
    console.print(table)
    for line in _reasons(treated):
        _say(line)
    if len(shown) < len(tensors):
        _say(f"... and {len(tensors) - len(shown)} smaller tensors (--all lists them)")


def _saved(treatment: Treatment | None) -> str:
    """Say what the zeros of a weight save; a question mark stands for "under a condition"."""
    if treatment is None:
        return ""
    effects = (("disk", treatment.disk), ("RAM", treatment.ram), ("time", treatment.speed))
    marks = {True: "", None: "?"}
    return (
        " ".join(f"{name}{marks[effect.expected]}" for name, effect in effects if effect.expected is not False) or "-"
    )


def _reasons(treated: dict[str, Treatment]) -> list[str]:
    """Return every different reason once, the most frequent first; those with figures of one tensor are in --json."""
    counts: Counter[str] = Counter()
    for item in treated.values():
        counts[f"  RAM: {item.ram.why}"] += 1
        counts[f"  time: {item.speed.why}"] += 1
        if not item.disk.expected and "%" in item.disk.why:
            counts["  disk: many zeros are stored; --json says how small each weight could be"] += 1
    return [f"{text} ({count} weights)" for text, count in counts.most_common()]


def _say(text: str) -> None:
    click.echo(_printable(text))


def _printable(text: str) -> str:
    """Return text from a file that may be hostile without control codes for the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(_spec(spec) for spec in specs)


def _spec(spec: TensorSpec) -> str:
    shape = ", ".join(spec.dynamic.get(axis, str(size)) for axis, size in enumerate(spec.shape))
    return f"{spec.name} {spec.dtype}[{shape}]" + ("" if spec.layout == "any" else f" {spec.layout}")
