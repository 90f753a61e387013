"""Flags beside --recipe: each changes its key, and paths count from where the person stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pdp_export.cli.main import program
from pdp_export.cli.recipes import load_recipe, run_folder
from pdp_export.errors import RecipeError, UsageError
from pdp_export.recipe import Recipe


@pytest.fixture
def flags_of(project: Path) -> Callable[..., dict[str, Any]]:
    """Return a parser of the arguments of prune-and-convert, --recipe given."""

    def parse(*arguments: str) -> dict[str, Any]:
        command = program.get_command(click.Context(program), "prune-and-convert")
        assert command is not None
        given = ["--recipe", str(project / "recipe.yaml"), *arguments]
        return command.make_context("prune-and-convert", given).params

    return parse


def _key(recipe: Recipe, dotted: str) -> Any:
    value: Any = recipe
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--sparsity", "0.75"], "pruning.sparsity", 0.75),
        (["--pattern", "channel"], "pruning.pattern", "channel"),
        (["--pattern", "channel", "--align", "16"], "pruning.align", 16),
        (["--ignore", "^a", "--ignore", "b$"], "pruning.ignore", ("^a", "b$")),
        (["--epochs", "2"], "pruning.epochs", 2),
        (["--lr", "0.5"], "pruning.lr", 0.5),
        (["--seed", "0"], "seed", 0),
        (["--seed", "7"], "seed", 7),
        (["--device", "cpu"], "training.device", "cpu"),
        (["--threads", "2"], "benchmark.threads", 2),
        (["--warmup", "0"], "benchmark.warmup", 0),
        (["--atol", "0.1"], "gates.atol", 0.1),
        (["--max-accuracy-drop", "0.0"], "gates.max_accuracy_drop", 0.0),
        (["--max-latency-ratio", "1"], "gates.max_latency_ratio", 1.0),
        (["--min-size-ratio", "3"], "gates.min_size_ratio", 3.0),
    ],
)
def test_a_flag_sets_its_key(flags_of: Callable[..., dict[str, Any]], arguments: list[str], key: str, value: Any):
    """Pins a flag that is accepted and ignored, zero taken for "not given" included."""
    assert _key(load_recipe(flags_of(*arguments)), key) == value


def test_the_temperature_is_set_where_it_counts(flags_of: Callable[..., dict[str, Any]], project: Path):
    """Pins a flag that is accepted and ignored: only the preset of the paper has a constant temperature."""
    arguments = flags_of("--temperature", "0.01")
    with pytest.raises(RecipeError, match="temperature has no effect with preset default"):
        load_recipe(arguments)
    path = project / "recipe.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["pruning"]["preset"] = "paper"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert load_recipe(arguments).pruning.temperature == 0.01


def test_flags_that_are_not_given_leave_the_recipe_alone(flags_of: Callable[..., dict[str, Any]]):
    """Pins a default of the command line that overrides the recipe."""
    flags = flags_of()
    assert load_recipe(flags) == Recipe.load(flags["recipe"])


def test_runs_are_spread_over_blocks(flags_of: Callable[..., dict[str, Any]]):
    """Pins --runs 200 that measures fewer times than asked."""
    benchmark = load_recipe(flags_of("--runs", "200")).benchmark
    assert benchmark.blocks * benchmark.runs_per_block >= 200


def test_targets_replace_the_recipes_and_keep_their_options(flags_of: Callable[..., dict[str, Any]], project: Path):
    """Pins --target onnx that forgets the recipe's opset, or that adds instead of choosing."""
    text = (project / "recipe.yaml").read_text(encoding="utf-8")
    text = text.replace("- {name: onnx}", "- {name: onnx, encoding: bitmask, options: {opset: 19}}\n  - {name: mnn}")
    (project / "recipe.yaml").write_text(text, encoding="utf-8")
    (onnx,) = load_recipe(flags_of("--target", "onnx")).targets
    assert (onnx.name, onnx.encoding, onnx.options) == ("onnx", "bitmask", {"opset": 19})
    names = [item.name for item in load_recipe(flags_of("--target", "coreml", "--target", "onnx")).targets]
    assert names == ["coreml", "onnx"]
    assert load_recipe(flags_of("--opset", "20")).targets[0].options == {"opset": 20}


def test_precision_and_encoding_go_to_every_chosen_target(flags_of: Callable[..., dict[str, Any]]):
    """Pins --precision that reaches the first target only."""
    chosen = load_recipe(flags_of("--target", "onnx", "--target", "mnn", "--precision", "fp32", "--encode", "dense"))
    assert [(item.precision, item.encoding) for item in chosen.targets] == [("fp32", "dense")] * 2


@pytest.mark.parametrize(
    ("arguments", "told", "where"),
    [
        (["--sparsity", "90"], "pruning.sparsity is 90.0", "--sparsity"),
        (["--pattern", "chanel"], "did you mean 'channel'", "--pattern"),
        (["--target", "onxx"], "did you mean 'onnx'", "--target"),
        (["--ignore", "("], "regular expression", "--ignore"),
        (["--epochs", "-1", "--seed", "3"], "pruning.epochs is -1", "--epochs"),
        (["--warmup", "-1", "--atol", "0"], "gates.atol is 0.0", "--warmup, --atol"),
    ],
)
def test_a_wrong_flag_is_refused_by_the_recipes_own_words(
    flags_of: Callable[..., dict[str, Any]], arguments: list[str], told: str, where: str
):
    """Pins a value from the command line that skips the recipe's checks, or a recipe blamed for a flag."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(flags_of(*arguments))
    assert told in caught.value.what
    assert caught.value.where == where
    assert caught.value.hint == f"correct {where}; --help says what it takes"


def test_a_flag_that_contradicts_the_recipe_is_named_beside_it(flags_of: Callable[..., dict[str, Any]]):
    """Pins a recipe blamed alone for what a flag made of it, or flags named that have no part in it."""
    with pytest.raises(RecipeError, match="align has no effect with pattern unstructured") as caught:
        load_recipe(flags_of("--align", "16", "--epochs", "2"))
    assert caught.value.where == "recipe.yaml: pruning; --align"
    assert "correct the recipe or --align;" in str(caught.value.hint)


def test_a_mistake_in_the_recipe_is_not_blamed_on_the_flags(flags_of: Callable[..., dict[str, Any]], project: Path):
    """Pins --target blamed for a misspelt key of another section."""
    with (project / "recipe.yaml").open("a", encoding="utf-8") as stream:
        stream.write("sed: 3\n")
    with pytest.raises(RecipeError, match="unknown key 'sed'") as caught:
        load_recipe(flags_of("--target", "onnx", "--seed", "3"))
    assert caught.value.where == "recipe.yaml: sed"


def test_a_missing_file_of_a_flag_is_told_with_the_folder_it_counts_from(
    flags_of: Callable[..., dict[str, Any]], project: Path, monkeypatch: pytest.MonkeyPatch
):
    """Pins "paths count from the recipe's folder" for --model, whose path counts from the working directory."""
    monkeypatch.chdir(project.parent)
    with pytest.raises(RecipeError, match=r"--model names task\.py, which does not exist") as caught:
        load_recipe(flags_of("--model", "task.py:build"))
    assert "count from the working directory" in str(caught.value.hint)


def test_an_option_of_a_target_that_is_not_asked_for_is_refused(flags_of: Callable[..., dict[str, Any]]):
    """Pins --min-ios silently ignored in an ONNX run."""
    with pytest.raises(UsageError, match="--min-ios belongs to target coreml"):
        load_recipe(flags_of("--min-ios", "17"))


def test_paths_of_flags_count_from_the_working_directory(
    flags_of: Callable[..., dict[str, Any]], project: Path, monkeypatch: pytest.MonkeyPatch
):
    """Pins --weights and --model that are looked for beside the recipe instead of where the person stands."""
    elsewhere = project.parent / "elsewhere"
    (elsewhere / "nets").mkdir(parents=True)
    (elsewhere / "nets" / "own.py").touch()
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe(flags_of("--weights", "best.pt", "--model", "nets/own.py:build"))
    assert (recipe.folder / str(recipe.model.weights)).resolve() == elsewhere / "best.pt"
    place, _, name = recipe.model.factory.rpartition(":")
    assert ((recipe.folder / place).resolve(), name) == (elsewhere / "nets" / "own.py", "build")
    assert load_recipe(flags_of("--model", "package.net:build")).model.factory == "package.net:build"
    assert str(project.parent) not in recipe.effective_yaml()


def test_the_run_directory_is_named_by_recipe_and_time(flags_of: Callable[..., dict[str, Any]]):
    """Pins two runs on one day that share a folder."""
    flags = flags_of()
    recipe = load_recipe(flags)
    folder = run_folder(flags, recipe)
    assert folder.parent == Path("runs")
    assert folder.name.startswith("model-20")
    assert folder.name.endswith("Z")
    assert run_folder(flags_of("--output", "mine"), recipe) == Path("mine")
