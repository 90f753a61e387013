"""What the user asks for, validated once before any work. YAML in, JSON schema out.

Paths and ``file.py:function`` references are relative to the recipe file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from pdp_export.errors import RecipeError
from pdp_export.recipe_errors import explain
from pdp_export.recipe_pruning import PruningSection
from pdp_export.recipe_section import Count, Positive, Section
from pdp_export.recipe_training import DistillationSection, TrainingSection
from pdp_export.results import Layout, TensorSpec

TargetName = Literal["onnx", "coreml", "litert", "mnn"]


class ModelSection(Section):
    """Where the network comes from.

    `factory` is ``module:function`` or ``path/to/file.py:function`` and returns an ``nn.Module``.
    `weights` is a .safetensors file or a state dict readable with ``weights_only``; without it the
    dense reference is trained by this recipe.
    """

    factory: str
    arguments: Mapping[str, Any] = Field(default_factory=dict)
    weights: str | None = None


class DataSection(Section):
    """Where the data comes from: a factory that returns train, validation and calibration loaders."""

    factory: str
    arguments: Mapping[str, Any] = Field(default_factory=dict)


class TaskSection(Section):
    """What is optimised and what is measured, each built in or ``module:function``.

    The metric is a mean over samples of a per-sample score, higher is better.
    `output` names the output that predictions are taken from; the first one by default.
    """

    loss: str = "cross_entropy"
    metric: str = "accuracy"
    output: str | None = None


class InputSection(Section):
    """One input of the model: name, example shape (batch first), dtype and dynamic axes."""

    name: str
    shape: tuple[Annotated[int, Field(gt=0)], ...]
    dtype: Literal["float32", "int64", "int32"] = "float32"
    dynamic: Mapping[int, str] = Field(default_factory=dict)
    layout: Layout = "any"

    @field_validator("dynamic")
    @classmethod
    def _axes_exist(cls, dynamic: Mapping[int, str], info: Any) -> Mapping[int, str]:
        rank = len(info.data.get("shape", ()))
        for axis in dynamic:
            if not 0 <= axis < rank:
                raise ValueError(f"axis {axis} does not exist in a shape of {rank} axes")
        return dynamic

    def spec(self) -> TensorSpec:
        """Return the record that converters and runtimes share."""
        return TensorSpec(
            name=self.name, shape=self.shape, dtype=self.dtype, dynamic=dict(self.dynamic), layout=self.layout
        )


class PreprocessingSection(Section):
    """How raw data became the model's input; written into every artifact and the manifest.

    `mean` and `std` are per channel, in units of the raw value divided by `scale`.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    scale: Positive = 255.0
    colour: Literal["RGB", "BGR", "GRAY"] | None = None
    labels: tuple[str, ...] = ()


class RemovalSection(Section):
    """What decides whether a layer works on fewer channels than its neighbours hold, at the price of a gather.

    Estimated latency, the size of the stored numbers, or multiply-accumulates alone (copies are free then). `measure`
    names the target in whose runtime latencies are timed on this machine, in the place of estimates.
    """

    objective: Literal["latency", "size", "macs"] = "latency"
    measure: Literal["onnx"] | None = None

    @model_validator(mode="after")
    def _only_latencies_are_measured(self) -> Self:
        if self.measure is not None and self.objective != "latency":
            raise ValueError(f"measure has no effect with objective {self.objective!r}: leave it out")
        return self


class TargetSection(Section):
    """One target with its precision, encoding and own options; `atol` overrides the gate's."""

    name: TargetName
    precision: str | None = None
    encoding: str = "auto"
    atol: Positive | None = None
    options: Mapping[str, Any] = Field(default_factory=dict)


class GatesSection(Section):
    """Limits that decide the exit code. A gate that is not set is reported only.

    `max_accuracy_drop` is a share of 1 (0.01 = one point); `atol` is relative to max|y|;
    `max_latency_ratio` is pruned / dense; `min_size_ratio` is dense / pruned bytes.
    """

    max_accuracy_drop: Annotated[float, Field(ge=0, lt=1)] | None = None
    atol: Positive | None = None
    max_latency_ratio: Positive | None = None
    min_size_ratio: Positive | None = None


class BenchmarkSection(Section):
    """How latency is measured: random blocks of both arms, interleaved in one process."""

    warmup: Count = 10
    blocks: Annotated[int, Field(ge=2)] = 40
    runs_per_block: Annotated[int, Field(ge=1)] = 3
    threads: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] = 1


class Recipe(Section):
    """The whole recipe. Load it with `Recipe.load`."""

    name: str = Field(default="model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: Count = 0
    model: ModelSection
    data: DataSection
    task: TaskSection = TaskSection()
    inputs: tuple[InputSection, ...] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(min_length=1)
    preprocessing: PreprocessingSection = PreprocessingSection()
    training: TrainingSection = TrainingSection()
    pruning: PruningSection = PruningSection()
    distillation: DistillationSection | None = None
    removal: RemovalSection = RemovalSection()
    targets: tuple[TargetSection, ...] = Field(default=(TargetSection(name="onnx"),), min_length=1)
    gates: GatesSection = GatesSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    _folder: Path = PrivateAttr(default=Path())

    @field_validator("targets")
    @classmethod
    def _targets_differ(cls, targets: tuple[TargetSection, ...]) -> tuple[TargetSection, ...]:
        names = [target.name for target in targets]
        if len(set(names)) != len(names):
            raise ValueError(f"each target may appear once, got {names}")
        return targets

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [item.name for item in self.inputs] + list(self.outputs)
        if len(set(names)) != len(names):
            raise ValueError(f"names of inputs and outputs must all differ, got {names}")
        if self.task.output is not None and self.task.output not in self.outputs:
            raise ValueError(f"task.output {self.task.output!r} is not one of the outputs {list(self.outputs)}")
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        self.training.check_loss(self.task.loss)
        if self.distillation is not None:
            self.distillation.check_recipe(self.outputs, self.pruning.epochs)
        return self

    @classmethod
    def parse(
        cls,
        values: Mapping[str, Any],
        *,
        base_dir: Path,
        source: str = "recipe",
        flags: Mapping[str, str] | None = None,
    ) -> Recipe:
        """Validate a plain mapping; relative paths count from `base_dir`. `source` and `flags` are for the message.

        Raises:
            RecipeError: quoting key, value, allowed values and near misses.
        """
        try:
            return cls.model_validate(dict(values)).rebased(base_dir)
        except ValidationError as error:
            raise explain(error, cls, source, flags or {}) from error

    @classmethod
    def load(
        cls, path: str | Path, overrides: Mapping[str, Any] | None = None, *, flags: Mapping[str, str] | None = None
    ) -> Recipe:
        """Read a YAML recipe and apply dotted `overrides` such as ``{"pruning.sparsity": 0.8}``.

        `flags` are those by which overrides were given, ``{"pruning.sparsity": "--sparsity"}``; an error names them.

        Raises:
            RecipeError: when the file is missing, is not YAML, or does not validate.
        """
        file = Path(path)
        values = _override(_read(file), overrides or {})
        return cls.parse(values, base_dir=file.resolve().parent, source=file.name, flags=flags)

    @property
    def folder(self) -> Path:
        """The folder that relative paths of this recipe count from."""
        return self._folder

    def rebased(self, folder: Path) -> Recipe:
        """Return the same recipe with its relative paths counting from `folder`."""
        copy = self.model_copy()
        copy._folder = folder
        return copy

    def effective_yaml(self) -> str:
        """Return the recipe with every default filled in, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(file: Path) -> dict[str, Any]:
    if file.is_dir():
        inside = ", ".join(str(item) for item in sorted(file.glob("*.yaml")))
        next_step = f"name the .yaml inside it: {inside}" if inside else "write one with: pdp-export init"
        raise RecipeError(f"{file} is a folder, not a recipe", where=str(file), hint=next_step)
    if not file.is_file():
        raise RecipeError(
            f"the recipe {file.name} does not exist", where=str(file), hint="write one with: pdp-export init"
        )
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file.name} is not YAML: {error}", where=str(file), hint="check the indentation") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{file.name} holds {type(values).__name__}, not a mapping of keys", where=str(file))
    return values


def _override(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    for dotted, value in overrides.items():
        *sections, key = dotted.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise RecipeError(f"{section} is {place!r}, not a mapping of keys", where=dotted)
        place[key] = value
    return values
