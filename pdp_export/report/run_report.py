"""report.json: everything one run did and measured, and its JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pdp_export import files
from pdp_export.errors import FileError
from pdp_export.measurements import (
    EnvironmentFacts,
    GateResult,
    Interval,
    LayerSparsity,
    Measurement,
    TargetResult,
)
from pdp_export.report.mask_figures import MaskFigures
from pdp_export.results import Skipped, StageResult, Verdict

FILE_NAME = "report.json"
SCHEMA_VERSION: Literal["pdp.report/1"] = "pdp.report/1"


class ModelCounts(Measurement):
    """Multiply-accumulates of one sample, parameters, and parameters that are not zero."""

    macs: int | None = None
    params: int
    nonzero: int


class EpochRecord(Measurement):
    """One epoch of training. `sparsity` is the share of zeros a hardening at its end would give."""

    epoch: int
    phase: str
    train_loss: float
    validation_loss: float | None = None
    validation_metric: float | None = None
    sparsity_target: float | None = None
    sparsity: float | None = None
    learning_rate: float | None = None
    seconds: float


class DenseReference(Measurement):
    """The user's trained model that everything is compared with. `source` says where its weights come from."""

    source: str
    metric: str = "accuracy"
    value: float
    interval: Interval | None = None
    n: int


class SoftHardGap(Measurement):
    """What turning soft masks into exact zeros cost: the metric just before and just after hardening.

    After a one-shot pruning "soft" is the network under the masks that nothing was trained with.
    """

    metric: str = "accuracy"
    soft_value: float
    hard_value: float
    n: int


class Recalibration(Measurement):
    """BatchNorm statistics measured again after hardening: `layers` modules on `batches` training batches.

    `before` and `after` are the metric on the validation set.
    """

    metric: str = "accuracy"
    before: float
    after: float
    layers: int
    batches: int


class RemovalChoice(Measurement):
    """A layer that could work on fewer channels than its neighbours hold: what each option costs, and the choice."""

    layer: str
    costs: Mapping[str, float]
    chosen: str


class RemovalPlan(Measurement):
    """The choices that channel removal made by cost, in the unit `cost_of`."""

    cost_of: str
    choices: tuple[RemovalChoice, ...] = ()


class RunReport(Measurement):
    """The whole of report.json.

    `command` holds no absolute path. `recipe` is the effective recipe. `verdict` is PASS only when
    every set gate and every check of every target passed; NOT_RUN and INCONCLUSIVE are never a pass.
    `gates` and `warnings` repeat those of all targets and stages, in one list each. `one_shot` tells that
    the zeros were chosen by the dense weights alone and nothing was trained with them.
    """

    schema_version: Literal["pdp.report/1"] = SCHEMA_VERSION
    tool_version: str
    created_utc: str
    name: str
    command: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = Field(default_factory=dict)
    environment: EnvironmentFacts
    dense_reference: DenseReference | None = None
    counts_before: ModelCounts | None = None
    counts_after: ModelCounts | None = None
    stages: tuple[StageResult, ...] = ()
    layers: tuple[LayerSparsity, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    removal: RemovalPlan | None = None
    masks: tuple[MaskFigures, ...] = ()
    one_shot: bool = False
    history: tuple[EpochRecord, ...] = ()
    soft_hard_gap: SoftHardGap | None = None
    recalibration: Recalibration | None = None
    targets: tuple[TargetResult, ...] = ()
    gates: tuple[GateResult, ...] = ()
    warnings: tuple[str, ...] = ()


def write(report: RunReport, folder: Path) -> Path:
    """Write `report` as report.json into the run directory, atomically, and return its path."""
    path = folder / FILE_NAME
    files.write_text(path, report.model_dump_json(indent=2) + "\n")
    return path


def read(folder: Path) -> RunReport:
    """Read report.json of a run directory (or the file itself).

    Raises:
        FileError: when it does not exist, is truncated, or is of another schema.
    """
    path = folder / FILE_NAME if folder.is_dir() else folder
    if not path.is_file():
        raise FileError(
            f"{path.name} does not exist",
            where=folder.name,
            hint="give a finished run directory",
        )
    try:
        return RunReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise FileError(
            f"{path.name} is not a report of schema {SCHEMA_VERSION}: {first['msg']}",
            where=f"{folder.name}: {where}",
            hint="it was written by another version or is damaged; run the report stage again",
        ) from error


def json_schema() -> str:
    """Return the JSON schema of report.json as text."""
    return json.dumps(RunReport.model_json_schema(mode="serialization"), indent=2, sort_keys=True) + "\n"
