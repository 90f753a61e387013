"""Stage 8: latency on this machine, dense and pruned interleaved in one process, with an A/A control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdp_export.errors import ChildCrashedError, NotRunnableError
from pdp_export.measurements import LatencyProtocol, LatencyResult
from pdp_export.pipeline import environment
from pdp_export.pipeline.context import Context, Outcome, write_json
from pdp_export.pipeline.convert import artifact_path
from pdp_export.recipe import BenchmarkSection
from pdp_export.tasks.objective import example_inputs
from pdp_export.validation import isolated

FILE = "latency.json"


def run(context: Context, output: Path) -> Outcome:
    """Write ``latency.json``: per target a measurement, or the reason why there is none."""
    recipe = context.recipe
    protocol = protocol_of(recipe.benchmark, recipe.seed)
    tensors = example_inputs(recipe, recipe.benchmark.batch)
    inputs = {item.name: tensor.numpy() for item, tensor in zip(recipe.inputs, tensors, strict=True)}
    found: dict[str, Any] = {}
    lines = []
    for done, section in enumerate(recipe.targets):
        context.observer.progress("measuring latency", done, len(recipe.targets), section.name)
        dense, pruned = (artifact_path(context.run.artifacts, section.name, role) for role in ("dense", "pruned"))
        try:
            measured = isolated.bench(
                section.name, dense, pruned, inputs, protocol, batch=recipe.benchmark.batch, log=context.run.log
            )
        except (NotRunnableError, ChildCrashedError) as error:
            found[section.name] = {"reason": error.what}
            lines.append(f"{section.name} NOT RUN")
            continue
        found[section.name] = {"latency": measured.model_dump(mode="json")}
        lines.append(f"{section.name} x{measured.comparison.ratio:.2f}")
    context.observer.progress("measuring latency", len(recipe.targets), len(recipe.targets))
    write_json(output / FILE, found)
    device = environment.device_name(recipe.training.device)
    facts = environment.describe(threads=recipe.benchmark.threads, device=device)
    write_json(output / "environment.json", facts.model_dump(mode="json"))
    return Outcome(summary=f"pruned / dense: {', '.join(lines)}")


def protocol_of(section: BenchmarkSection, seed: int) -> LatencyProtocol:
    """Return the latency protocol that the recipe asks for."""
    return LatencyProtocol(
        warmup=max(section.warmup, 1), blocks=section.blocks, runs_per_block=section.runs_per_block,
        seed=seed, threads=section.threads,
    )  # fmt: skip


def read_latency(context: Context, target: str) -> tuple[LatencyResult | None, str]:
    """Return the measurement of a target, or the reason why it was not measured."""
    found: dict[str, Any] = context.read_json("bench", FILE).get(target, {})
    if "latency" in found:
        return LatencyResult.model_validate(found["latency"]), ""
    return None, str(found.get("reason", "not measured"))
