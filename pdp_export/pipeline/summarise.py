"""Stage 9: everything that was measured becomes one verdict, report.json and report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdp_export import files
from pdp_export.graph.archive import load_program
from pdp_export.measurements import EnvironmentFacts, LayerSparsity, TargetResult
from pdp_export.pipeline import environment, manifest
from pdp_export.pipeline.bench import read_latency
from pdp_export.pipeline.context import Context, Outcome
from pdp_export.pipeline.layer_table import layer_table
from pdp_export.pipeline.manifest import Manifest
from pdp_export.pipeline.mask_table import mask_table
from pdp_export.pipeline.outputs import PRUNED_PROGRAM, WEIGHTS
from pdp_export.pipeline.validate import read_results
from pdp_export.report import html_page, run_report
from pdp_export.report.run_report import (
    DenseReference,
    EpochRecord,
    ModelCounts,
    Recalibration,
    RemovalChoice,
    RemovalPlan,
    RunReport,
    SoftHardGap,
)
from pdp_export.results import Skipped
from pdp_export.tasks.model import read_state_dict
from pdp_export.validation import gates
from pdp_export.validation.target_check import with_latency


def run(context: Context, output: Path) -> Outcome:
    """Write report.json and report.html, into the stage's folder and to the top of the run directory."""
    report = build_report(context, manifest.read(context.run.folder))
    run_report.write(report, output)
    html_page.write(report, output)
    for name in (run_report.FILE_NAME, html_page.FILE_NAME):
        files.write_text(context.run.folder / name, (output / name).read_text(encoding="utf-8"))
    verdicts = " · ".join(f"{result.target} {result.verdict.replace('_', ' ')}" for result in report.targets)
    return Outcome(summary=f"{report.verdict.replace('_', ' ')} ({verdicts})")


def build_report(context: Context, book: Manifest) -> RunReport:
    """Assemble the report from the outputs of the finished stages."""
    recipe = context.recipe
    targets = tuple(_settled(context, result) for result in read_results(context))
    dense = context.read_json("train-dense", "dense.json")
    prune = context.read_json("prune", "history.json")
    harden = context.read_json("harden", "harden.json")
    return RunReport(
        tool_version=book.tool_version,
        created_utc=book.created_utc,
        name=recipe.name,
        command=book.command,
        verdict=gates.worst(result.verdict for result in targets),
        reasons=tuple(f"{result.target}: {reason}" for result in targets for reason in result.reasons),
        recipe=environment.portable(recipe.model_dump(mode="json")),
        environment=_environment(context),
        dense_reference=DenseReference(
            source=dense["source"], metric=recipe.task.metric, value=dense["metric"], n=dense["n"]
        ),
        **_counts(context),
        stages=tuple(record.result for record in book.stages.values()),
        layers=_layers(context),
        skipped=_skipped(context),
        removal=_removal(context),
        masks=mask_table(prune, recipe.pruning.pattern, one_shot=harden["one_shot"]),
        one_shot=harden["one_shot"],
        history=_history(dense, prune),
        **_after_hardening(recipe.task.metric, harden),
        targets=targets,
        gates=tuple(gate for result in targets for gate in result.gates),
        warnings=tuple(text for record in book.stages.values() for text in record.result.warnings),
    )


def _settled(context: Context, result: TargetResult) -> TargetResult:
    latency, reason = read_latency(context, result.target)
    return gates.settle(with_latency(result, latency, reason), context.recipe.gates)


def _environment(context: Context) -> EnvironmentFacts:
    """Return the machine that measured, which need not be the one that writes the report."""
    return EnvironmentFacts.model_validate(context.read_json("bench", "environment.json"))


def _counts(context: Context) -> dict[str, ModelCounts]:
    removal = context.read_json("remove-channels", "removal.json")
    return {f"counts_{key}": ModelCounts.model_validate(removal[key]) for key in ("before", "after")}


def _layers(context: Context) -> tuple[LayerSparsity, ...]:
    statistics = context.read_json("prune", "history.json")["layers"]
    hardened = read_state_dict(context.output_of("harden") / WEIGHTS)
    program = load_program(context.output_of("remove-channels") / PRUNED_PROGRAM)
    return layer_table(context.model(), hardened, program.state_dict, statistics)


def _removal(context: Context) -> RemovalPlan:
    report = context.read_json("remove-channels", "removal.json")["report"]
    return RemovalPlan(
        cost_of=report["cost_of"], choices=tuple(RemovalChoice.model_validate(item) for item in report["choices"])
    )


def _skipped(context: Context) -> tuple[Skipped, ...]:
    early = context.read_json("prune", "history.json")["skipped"]
    late = context.read_json("remove-channels", "removal.json")["report"]["skipped"]
    return tuple(Skipped.model_validate(item) for item in [*early, *late])


def _after_hardening(metric: str, harden: dict[str, Any]) -> dict[str, Any]:
    """Return what hardening cost, and what measuring BatchNorm again gave back."""
    again = harden["recalibration"]
    hard = again["before"] if again else harden["hard"]
    names = ("before", "after", "layers", "batches")
    return {
        "soft_hard_gap": SoftHardGap(metric=metric, soft_value=harden["soft"], hard_value=hard, n=harden["n"]),
        "recalibration": Recalibration(metric=metric, **{name: again[name] for name in names}) if again else None,
    }


def _history(dense: dict[str, Any], prune: dict[str, Any]) -> tuple[EpochRecord, ...]:
    phases = (("dense", dense["history"]), ("prune", prune["epochs"]))
    return tuple(_epoch(phase, item) for phase, records in phases for item in records)


def _epoch(phase: str, item: dict[str, Any]) -> EpochRecord:
    return EpochRecord(
        epoch=item["epoch"], phase=phase, train_loss=item["loss"], validation_metric=item["metric"],
        sparsity=item.get("sparsity"),
        learning_rate=item["lr"], seconds=item["seconds"],
    )  # fmt: skip
