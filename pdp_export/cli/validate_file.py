"""The parts of ``pdp-export validate`` for files that somebody else wrote, and for the kit that goes to a Mac."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdp_export.cli.arrays import read

if TYPE_CHECKING:
    import numpy as np

    from pdp_export.results import FileFacts, TensorSpec

    Arrays = dict[str, np.ndarray[Any, Any]]


def run_alone(
    path: Path, inputs: str | None, expected: str | None, save: str | None, atol: float | None, flags: dict[str, Any]
) -> int:
    """Run a file without a PyTorch program: compare with given outputs, or say what came out.

    Without `inputs` random ones are made in the file's own shapes.
    """
    import numpy as np

    from pdp_export.converters import registry
    from pdp_export.errors import ParityGateError
    from pdp_export.results import Verdict
    from pdp_export.runtimes import registry as runtimes
    from pdp_export.validation import isolated
    from pdp_export.validation.gates import worst
    from pdp_export.validation.parity import compare_outputs

    target = runtimes.name_for(path)
    facts = isolated.describe(target, path)
    fed = read(inputs, "--inputs") if inputs else _random(facts.inputs)
    names = [spec.name for spec in facts.outputs]
    got = isolated.outputs(target, path, {spec.name: fed[spec.name] for spec in _known(facts, fed)}, names)
    if save is not None:
        np.savez(save, **{name: np.asarray(value) for name, value in got.items()})  # type: ignore[arg-type]
    declared = registry.load(target).TARGET
    limit = atol if atol is not None else declared.tolerance(declared.precisions[0], "auto")
    parity = compare_outputs(read(expected, "--expected"), got, limit) if expected else ()
    verdict = worst(item.verdict for item in parity)
    _print(path, runtimes.load(target).execution().by, got, parity, verdict, flags)
    return ParityGateError.exit_code if verdict is Verdict.FAIL else 0


def emit_kit(path: Path, reference: str, inputs: str | None, atol: float | None, folder: Path) -> None:
    """Write the Mac kit of a package and the program that it was made from."""
    import numpy as np

    from pdp_export.converters import registry
    from pdp_export.errors import UsageError
    from pdp_export.graph.archive import load_program
    from pdp_export.pipeline import mac_kit
    from pdp_export.pipeline.program_io import as_reference, random_inputs
    from pdp_export.validation import isolated

    import torch  # isort: skip

    program = load_program(Path(reference))
    facts = isolated.describe("coreml", path)
    given = list(read(inputs, "--inputs").values()) if inputs else [x.numpy() for x in random_inputs(program)]
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in given)
    _, expected = as_reference(program, tensors, [spec.name for spec in facts.outputs])
    if len(given) != len(facts.inputs):
        raise UsageError(f"{len(given)} arrays for {len(facts.inputs)} inputs of {path.name}", where="--inputs")
    by_name = {spec.name: array for spec, array in zip(facts.inputs, given, strict=True)}
    declared = registry.load("coreml").TARGET
    limit = max(declared.tolerance(declared.precisions[0], encoding) for encoding in ("auto", *facts.encodings))
    mac_kit.emit(folder, _with_twin(path), by_name, expected, limit if atol is None else atol)
    click.echo(f"{folder}: copy it to a Mac and run: python3 run_on_mac.py")
    click.echo("then: pdp-export report RUN --merge result.json")


def _with_twin(path: Path) -> dict[str, Path]:
    dense = path.parent / "dense" / path.name
    return {"pruned": path, **({"dense": dense} if dense.exists() else {})}


def _known(facts: FileFacts, fed: Arrays) -> tuple[TensorSpec, ...]:
    from pdp_export.errors import DataError

    missing = [spec.name for spec in facts.inputs if spec.name not in fed]
    if missing:
        raise DataError(
            f"the file takes {', '.join(spec.name for spec in facts.inputs)}; {', '.join(missing)} is not given",
            where="--inputs",
            hint=f"the .npz holds {', '.join(fed) or 'nothing'}",
        )
    return facts.inputs


def _random(specs: tuple[TensorSpec, ...]) -> Arrays:
    import numpy as np

    generator = np.random.default_rng(0)
    made: Arrays = {}
    for spec in specs:
        if spec.colour:
            made[spec.name] = generator.integers(0, 256, spec.shape).astype(spec.dtype)
        elif "float" in spec.dtype:
            made[spec.name] = generator.standard_normal(spec.shape).astype(spec.dtype)
        else:
            made[spec.name] = np.zeros(spec.shape, spec.dtype)
    return made


def _print(path: Path, by: str, got: Arrays, parity: Any, verdict: Any, flags: dict[str, Any]) -> None:
    import numpy as np

    rows = [
        {
            "name": name, "shape": list(value.shape), "dtype": value.dtype.name,
            "finite": bool(np.isfinite(value).all()),
            "min": float(value.min()) if value.size else None, "max": float(value.max()) if value.size else None,
        }
        for name, value in got.items()
    ]  # fmt: skip
    if flags["as_json"]:
        found = [item.model_dump(mode="json") for item in parity]
        click.echo(json.dumps({"file": path.name, "run_by": by, "verdict": verdict, "outputs": rows, "parity": found},
                              indent=2))  # fmt: skip
        return
    click.echo(f"{path.name}: {verdict.replace('_', ' ')}, run by {by}")
    for row in rows:
        values = f"{row['min']:.4g} to {row['max']:.4g}" if row["min"] is not None else "empty"
        click.echo(f"  {row['name']} {row['dtype']}{row['shape']} {values}{'' if row['finite'] else ', not finite'}")
    for item in parity:
        click.echo(f"  {item.name} {item.verdict}: {item.reason or f'relative to range {item.relative_to_range:.2e}'}")
    if not parity:
        click.echo("  nothing to compare with: give --reference model.pt2 or --expected outputs.npz")
