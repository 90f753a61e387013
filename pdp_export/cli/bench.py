"""``pdp-export bench``: latency of two files, or of a whole run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdp_export.cli import options

if TYPE_CHECKING:
    from pdp_export.measurements import LatencyComparison, LatencyResult


@click.command("bench")
@click.argument("pruned", type=click.Path())
@click.option("--against", "dense", type=click.Path(), metavar="FILE", help="The dense file of the same format.")
@click.option("--batch", type=click.IntRange(min=1), help="Samples per inference. [default: 1]")
@click.option("--warmup", type=click.IntRange(min=1), help="Inferences before measuring. [default: 10]")
@click.option("--runs", type=click.IntRange(min=6), help="Timed inferences per file. [default: 120]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the runtime. [default: 1]")
@click.option("--seed", type=int, help="Order of the blocks and random inputs. [default: 0]")
@options.output_options
def command(pruned: str, dense: str | None, **flags: Any) -> int:
    """Measure a pruned file against its dense twin, interleaved in one process, with an A/A control.

    PRUNED is a model file (with --against) or a run directory, whose files are all measured again with
    its recipe's settings, or the ones given here.
    """
    from pdp_export.cli.again import is_run, run_again
    from pdp_export.errors import UsageError

    path = Path(pruned)
    if is_run(path):
        given = {f"benchmark.{name}": flags[name] for name in ("batch", "threads", "warmup") if flags[name]}
        if flags["seed"] is not None or dense is not None:
            raise UsageError("a run is measured with its own seed and dense files", where="--seed, --against")
        if flags["runs"]:
            given |= {"benchmark.blocks": max(2, -(-flags["runs"] // 3)), "benchmark.runs_per_block": 3}
        return run_again(path, "bench", flags, changes=given)
    if dense is None:
        raise UsageError(
            "one latency alone says little: give the file to compare with",
            where="--against",
            hint="give the dense file of the same format",
        )
    _print(_measure(path, Path(dense), flags), flags)
    return 0


def _measure(path: Path, dense: Path, flags: dict[str, Any]) -> LatencyResult:
    from pdp_export.errors import UsageError
    from pdp_export.measurements import LatencyProtocol
    from pdp_export.runtimes.registry import name_for
    from pdp_export.validation import isolated

    target = name_for(path)
    if name_for(dense) != target:
        raise UsageError(f"{path.name} and {dense.name} are not of the same format", where="--against")
    batch, seed = flags["batch"] or 1, flags["seed"] or 0
    protocol = LatencyProtocol(
        warmup=flags["warmup"] or 10,
        blocks=max(2, -(-(flags["runs"] or 120) // 3)),
        runs_per_block=3,
        seed=seed,
        threads=flags["threads"] or 1,
    )
    inputs = _random_inputs(isolated.describe(target, path).inputs, batch, seed)
    return isolated.bench(target, dense, path, inputs, protocol, batch=batch)


def _random_inputs(specs: Any, batch: int, seed: int) -> dict[str, Any]:
    """Return random inputs in the model's layout (the feeder turns NCHW into the file's own)."""
    import numpy as np

    generator = np.random.default_rng(seed)
    made = {}
    for spec in specs:
        shape = list(spec.shape)
        if spec.layout == "NHWC":
            shape = [shape[0], shape[3], shape[1], shape[2]]
        shape[0] = batch if 0 in spec.dynamic else shape[0]
        made[spec.name] = (
            generator.standard_normal(shape).astype(spec.dtype)
            if "float" in spec.dtype
            else np.zeros(shape, spec.dtype)
        )
    return made


def _print(measured: LatencyResult, flags: dict[str, Any]) -> None:
    from rich.table import Table

    from pdp_export.cli.drawing import stdout_console

    if flags["as_json"]:
        click.echo(measured.model_dump_json(indent=2))
        return
    console = stdout_console(no_color=flags["no_color"])
    table = Table("file", "p50 ms", "p90 ms", "mean ms", "first ms", "load ms", box=None)
    for name, arm in (("dense", measured.dense), ("pruned", measured.pruned)):
        table.add_row(
            name,
            f"{arm.p50_ms:.3f}",
            f"{arm.p90_ms:.3f}",
            f"{arm.mean_ms:.3f}",
            f"{arm.first_ms:.3f}",
            f"{arm.load_ms:.1f}",
        )
    console.print(table)
    click.echo(f"pruned / dense {_ratio(measured.comparison)}, control dense / dense {_ratio(measured.control_aa)}")
    click.echo(
        f"{measured.runtime} {measured.runtime_version}, {measured.protocol.threads} threads, "
        f"batch {measured.batch}, {measured.execution}"
    )
    for reason in measured.reasons:
        click.echo(f"note: {reason}")


def _ratio(comparison: LatencyComparison) -> str:
    interval = comparison.interval
    return f"{comparison.ratio:.3f} (95 % {interval.low:.3f} to {interval.high:.3f})"
