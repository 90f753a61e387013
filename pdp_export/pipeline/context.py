"""What every stage gets: the recipe, the run directory, and the user's objects, built once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdp_export.pipeline import stages
from pdp_export.pipeline.manifest import ArtifactRecord
from pdp_export.pipeline.observer import Observer
from pdp_export.pipeline.run_directory import RunDirectory
from pdp_export.recipe import Recipe
from pdp_export.tasks.data import Loaders, load_data, unpack
from pdp_export.tasks.model import build_model, load_weights
from pdp_export.tasks.objective import Objective, build_objective
from pdp_export.training.processes import Crew

if TYPE_CHECKING:
    from torch import nn

LOGGER = logging.getLogger("pdp_export")


@dataclass(frozen=True)
class Outcome:
    """What a stage says when it is done; `artifacts` are the model files it wrote."""

    summary: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    artifacts: tuple[ArtifactRecord, ...] = ()


StageFunction = Callable[["Context", Path], Outcome]


@dataclass
class Context:
    """Shared by the stages of one run. Everything here is derived from the recipe, nothing from another stage.

    `checkpoint_dir` belongs to the running stage and to its inputs: a changed recipe finds it empty. `crew` are the
    processes of the run, and `together` is true while all of them train.
    """

    recipe: Recipe
    run: RunDirectory
    observer: Observer
    checkpoint_dir: Path = Path()
    crew: Crew = field(default_factory=Crew)
    together: bool = False

    @cached_property
    def data(self) -> Loaders:
        """The user's loaders, checked against the recipe."""
        return load_data(self.recipe)

    @cached_property
    def objective(self) -> Objective:
        """Loss and metric."""
        return build_objective(self.recipe)

    @property
    def input_names(self) -> list[str]:
        """The names of the model's inputs, in order."""
        return [item.name for item in self.recipe.inputs]

    @property
    def dynamic(self) -> dict[int, dict[int, str]]:
        """Dynamic axes by input position, as `graph.capture` wants them."""
        return {index: dict(item.dynamic) for index, item in enumerate(self.recipe.inputs) if item.dynamic}

    @property
    def capture_batch(self) -> int | None:
        """Batch to capture with: 2 where it is dynamic, since torch.export specialises 1."""
        return 2 if any(0 in item.dynamic for item in self.recipe.inputs) else None

    @cached_property
    def validation_size(self) -> int:
        """Number of validation samples."""
        return sum(len(unpack(batch, self.input_names)[0][0]) for batch in self.data.validation)

    def evaluate(self, model: nn.Module) -> float:
        """Return the mean score of a model on the validation set."""
        from pdp_export.training.evaluation import evaluate

        return evaluate(model, self.data.validation, self.objective, input_names=self.input_names, dynamic=self.dynamic)

    def model(self, weights: Path | None = None) -> nn.Module:
        """Return a fresh network, with the weights of a file if one is given."""
        model = build_model(self.recipe)
        if weights is not None:
            load_weights(model, weights)
        return model

    def output_of(self, stage: str) -> Path:
        """Return the folder of a finished stage."""
        return self.run.folder / stages.folder_of(stages.STAGES[stages.position(stage)])

    def read_json(self, stage: str, name: str) -> Any:
        """Read a JSON file from the output of a finished stage."""
        return json.loads((self.output_of(stage) / name).read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file into a stage's output."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
