"""The recipe: defaults, round trip, and errors that a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdp_export.errors import RecipeError
from pdp_export.recipe import Recipe
from pdp_export.recipe_pruning import PruningSection

MINIMAL: dict[str, Any] = {
    "model": {"factory": "task.py:build"},
    "data": {"factory": "task.py:load"},
    "inputs": [{"name": "image", "shape": [1, 3, 8, 8], "dynamic": {0: "batch"}}],
    "outputs": ["logits"],
}


def _parse(**changes: Any) -> Recipe:
    return Recipe.parse({**MINIMAL, **changes}, base_dir=Path("somewhere"))


def _refused(**changes: Any) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        _parse(**changes)
    assert caught.value.exit_code == 2
    return caught.value


def _write(folder: Path, values: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


def test_four_keys_are_enough():
    """Pins a default that disappears and makes every old recipe invalid."""
    recipe = _parse()
    assert recipe.pruning.pattern == "unstructured"
    assert 0 < recipe.pruning.sparsity < 1
    assert [target.name for target in recipe.targets] == ["onnx"]
    assert recipe.task.metric == "accuracy"
    assert recipe.gates.model_dump() == dict.fromkeys(recipe.gates.model_dump())


def test_the_effective_recipe_reads_back_as_the_same_recipe(tmp_path: Path):
    """Pins a saved recipe that no longer reproduces the run (a lost default, an axis that became text)."""
    recipe = _parse(
        targets=[{"name": "coreml", "precision": "fp16", "options": {"min_ios": 16}}, {"name": "mnn", "atol": 1e-3}],
        preprocessing={"mean": [0.1], "std": [0.2], "labels": ["null", "Überraschung", "3"]},
        pruning={"pattern": "channel", "sparsity": 0.5, "ignore": [r"^stem\.", "head"]},
        gates={"max_accuracy_drop": 0.01},
    )
    path = _write(tmp_path, recipe.effective_yaml())
    again = Recipe.load(path).rebased(recipe.folder)
    assert again == recipe
    assert again.effective_yaml() == recipe.effective_yaml()


def test_the_effective_recipe_fills_every_default_in_and_holds_no_machine_path(tmp_path: Path):
    """Pins an effective recipe that depends on tomorrow's defaults, or that tells where it was run."""
    path = _write(tmp_path, MINIMAL)
    text = Recipe.load(path).effective_yaml()
    values = yaml.safe_load(text)
    assert values["pruning"]["ramp_end"] == 0.75
    assert "base_dir" not in values
    assert str(tmp_path) not in text


@given(sparsity=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_every_share_between_0_and_1_is_a_sparsity(sparsity: float):
    """Pins a bound that refuses a legal share or loses digits of it on the way through YAML."""
    recipe = _parse(pruning={"sparsity": sparsity})
    assert recipe.pruning.sparsity == sparsity
    assert yaml.safe_load(recipe.effective_yaml())["pruning"]["sparsity"] == pytest.approx(sparsity, rel=1e-15)


@given(sparsity=st.one_of(st.floats(max_value=0), st.floats(min_value=1), st.just(float("nan"))))
def test_every_other_number_is_refused_with_key_and_value(sparsity: float):
    """Pins 90 (a percentage), 0, 1, infinity and NaN accepted as a sparsity."""
    error = _refused(pruning={"sparsity": sparsity})
    assert "pruning.sparsity" in error.what
    assert repr(sparsity) in error.what


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prunning": {}}, ["unknown key 'prunning'", "did you mean 'pruning'", "allowed: name, seed, model"]),
        ({"pruning": {"sparsty": 0.5}}, ["unknown key 'pruning.sparsty'", "did you mean 'sparsity'", "ramp_end"]),
        ({"targets": [{"name": "onxx"}]}, ["targets.0.name is 'onxx'", "did you mean 'onnx'", "'litert'"]),
        ({"targets": [{"name": "ONNX"}]}, ["targets.0.name is 'ONNX'", "did you mean 'onnx'"]),
        ({"targets": [{"name": "onnx", "encode": "dense"}]}, ["targets.0.encode", "did you mean 'encoding'"]),
        ({"targets": []}, ["targets is", "at least 1"]),
        ({"targets": [{"name": "onnx"}, {"name": "mnn"}, {"name": "onnx"}]}, ["targets is", "may appear once"]),
        ({"pruning": {"pattern": "chanel"}}, ["pruning.pattern is 'chanel'", "did you mean 'channel'"]),
        ({"pruning": {"sparsity": 50}}, ["pruning.sparsity is 50", "less than 1 (a share: 0.5 is half)"]),
        ({"removal": {"objective": "latncy"}}, ["removal.objective is 'latncy'", "did you mean 'latency'", "'macs'"]),
        ({"removal": {"objective": "size", "measure": "onnx"}}, ["removal: measure has no effect", "'size'"]),
        ({"pruning": {"ramp": 3}}, ["pruning.ramp is 3", "'cubic' or 'linear'"]),
        ({"pruning": {"epochs": "many"}}, ["pruning.epochs is 'many'", "integer"]),
        ({"pruning": {"epochs": -1}}, ["pruning.epochs is -1", "greater than or equal to 0"]),
        ({"pruning": {"warmup": 0.5, "ramp_end": 0.5}}, ["pruning: ramp_end 0.5", "greater than warmup 0.5"]),
        ({"pruning": {"warmup": 2}}, ["pruning.warmup", "2"]),
        ({"pruning": {"pattern": "nm", "n": 4, "m": 4}}, ["pruning: n 4 must be smaller than m 4"]),
        ({"pruning": {"pattern": "nm", "sparsity": 0.9}}, ["pruning: sparsity 0.9 contradicts 2:4"]),
        ({"pruning": {"budget": {"mac": 0.3}}}, ["pruning.budget has a key 'mac'", "did you mean 'macs'", "'cost'"]),
        ({"pruning": {"ignore": "conv"}}, ["pruning.ignore is 'conv'"]),
        ({"pruning": {"ignore": ["("]}}, ["pruning.ignore", "'('", "regular expression"]),
        ({"outputs": "logits"}, ["outputs is 'logits'"]),
        ({"outputs": ["image"]}, ["must all differ", "['image', 'image']"]),
        ({"outputs": ["a", "a"]}, ["must all differ"]),
        ({"inputs": []}, ["inputs is []", "at least 1"]),
        ({"inputs": [{"name": "x", "shape": [1, 0]}]}, ["inputs.0.shape.1 is 0"]),
        ({"inputs": [{"name": "x", "shape": [1, 3], "dynamic": {2: "time"}}]}, ["inputs.0.dynamic", "axis 2"]),
        ({"inputs": [{"name": "x", "shape": [1, 3], "dynamic": {-1: "time"}}]}, ["inputs.0.dynamic", "axis -1"]),
        ({"inputs": [{"name": "x", "shape": [1, 3], "dtype": "flaot32"}]}, ["dtype is 'flaot32'", "mean 'float32'"]),
        ({"task": {"output": "scores"}}, ["task.output 'scores'", "['logits']"]),
        ({"preprocessing": {"std": [0.0]}}, ["preprocessing.std.0 is 0.0"]),
        ({"gates": {"max_accuracy_drop": 2}}, ["gates.max_accuracy_drop is 2"]),
        ({"gates": {"min_size_ratio": float("inf")}}, ["gates.min_size_ratio is inf"]),
        ({"name": "../evil"}, ["name is '../evil'"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"model": None}, ["model is None"]),
        ({"data": {}}, ["key 'data.factory' is missing"]),
        ({"base_dir": "elsewhere"}, ["unknown key 'base_dir'"]),
        ({1: 2}, ["1"]),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_quoted_with_what_is_allowed(changes: dict[Any, Any], told: list[str]):
    """Pins pydantic's own wording, a lost value, or a missing near miss in front of a user."""
    with pytest.raises(RecipeError) as caught:
        Recipe.parse({**MINIMAL, **changes}, base_dir=Path())
    for part in told:
        assert part in caught.value.what
    assert caught.value.where
    assert "pydantic" not in str(caught.value)


def test_several_mistakes_are_told_at_once():
    """Pins a recipe that must be run once per typo."""
    error = _refused(seed=-1, pruning={"sparsity": 2, "epochs": -1})
    assert all(part in error.what for part in ("seed", "pruning.sparsity", "pruning.epochs"))
    assert all(part in str(error.where) for part in ("seed", "pruning.sparsity", "pruning.epochs"))


def test_a_hundred_mistakes_stay_readable():
    """Pins a message that fills the screen, and a long value that is quoted in full."""
    error = _refused(pruning={f"key{index}": 0 for index in range(100)}, name="x" * 50 + "/" * 500)
    assert "more" in error.what
    assert "x" * 50 + "/" * 100 not in error.what


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "NoneType"),
        ("- a\n- b\n", "list"),
        ("just words", "str"),
        ("model: {factory: a:b\n", "is not YAML"),
        ("model: !!python/object/apply:os.system ['touch created']\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str):
    """Pins a traceback, or code that runs, for an empty, foreign, broken or hostile file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(_write(tmp_path, text))
    assert told in caught.value.what
    assert "recipe.yaml" in str(caught.value)
    assert not (tmp_path / "created").exists()


def test_a_binary_file_is_not_yaml(tmp_path: Path):
    """Pins a UnicodeDecodeError for a model file given as the recipe."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\x80\x04\x95\xff\x00" * 20)
    with pytest.raises(RecipeError, match="is not YAML"):
        Recipe.load(path)


@pytest.mark.parametrize(("name", "told"), [("absent.yaml", "does not exist"), (".", "is a folder, not a recipe")])
def test_a_missing_recipe_points_to_init(tmp_path: Path, name: str, told: str):
    """Pins a FileNotFoundError for a mistyped path or a folder."""
    with pytest.raises(RecipeError, match=told) as caught:
        Recipe.load(tmp_path / name)
    assert "pdp-export init" in str(caught.value.hint)


def test_a_folder_with_recipes_is_told_with_their_names(tmp_path: Path):
    """Pins "does not exist" for a folder that is there, with the recipe in it."""
    path = _write(tmp_path, MINIMAL)
    with pytest.raises(RecipeError, match="is a folder, not a recipe") as caught:
        Recipe.load(tmp_path)
    assert str(path) in str(caught.value.hint)


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path):
    """Pins YAML 1.1, which reads 5e-4 as text."""
    path = _write(tmp_path, yaml.safe_dump(MINIMAL) + "training: {weight_decay: 5e-4, lr: 1e-1}\n")
    assert Recipe.load(path).training.weight_decay == 5e-4


def test_flags_override_keys_and_create_missing_sections(tmp_path: Path):
    """Pins a flag that is lost, or that needs the section to be in the file."""
    path = _write(tmp_path, {**MINIMAL, "pruning": {"sparsity": 0.5, "epochs": 3}})
    recipe = Recipe.load(path, {"pruning.sparsity": 0.8, "gates.atol": 0.1, "seed": 4})
    assert (recipe.pruning.sparsity, recipe.pruning.epochs, recipe.gates.atol, recipe.seed) == (0.8, 3, 0.1, 4)


def test_a_wrong_flag_is_refused_like_a_wrong_key(tmp_path: Path):
    """Pins an override that skips the checks."""
    with pytest.raises(RecipeError, match=r"pruning.sparsity is 90\.0"):
        Recipe.load(_write(tmp_path, MINIMAL), {"pruning.sparsity": 90.0})


@pytest.mark.parametrize("section", [None, 3, ["sparsity"]])
def test_a_flag_into_a_section_that_is_no_mapping_is_a_recipe_error(tmp_path: Path, section: Any):
    """Pins an AttributeError when a recipe says ``pruning:`` with nothing below it and --sparsity is given."""
    with pytest.raises(RecipeError, match="pruning is"):
        Recipe.load(_write(tmp_path, {**MINIMAL, "pruning": section}), {"pruning.sparsity": 0.5})


def test_relative_paths_count_from_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pins references that only work when the tool is started in the recipe's folder."""
    (tmp_path / "project").mkdir()
    _write(tmp_path / "project", MINIMAL)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load("project/recipe.yaml")
    monkeypatch.chdir("/")
    assert recipe.folder == tmp_path / "project"
    assert recipe.rebased(Path("other")).folder == Path("other")


def test_a_recipe_cannot_be_changed_after_its_check():
    """Pins a stage that edits the recipe after it was validated and hashed."""
    recipe = _parse()
    with pytest.raises(ValueError, match="frozen"):
        recipe.pruning.sparsity = 0.1  # type: ignore[misc]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(key=st.sampled_from(sorted(Recipe.model_fields)), value=_JSON)
def test_any_value_under_any_key_is_accepted_or_explained(key: str, value: Any):
    """Pins a crash of the code that explains errors (odd nesting, unions, keys that are numbers)."""
    try:
        recipe = _parse(**{key: value})
    except RecipeError as error:
        assert error.what  # noqa: PT017 - either outcome is fine, a crash is not
    else:
        assert yaml.safe_load(recipe.effective_yaml())


@pytest.mark.parametrize(
    ("pruning", "said"),
    [
        ({"n": 1}, "n has no effect with pattern unstructured"),
        ({"pattern": "nm", "align": 16}, "align has no effect with pattern nm"),
        ({"ties": "free"}, "ties has no effect"),
        ({"temperature": 0.1}, "temperature has no effect with preset default"),
        ({"budget": {"macs": 0.3}, "sparsity": 0.8}, "sparsity has no effect beside a budget"),
        ({"costs": {"fc": 2.0}}, "costs has no effect"),
    ],
)
def test_key_without_effect_is_refused(pruning: dict[str, Any], said: str) -> None:
    """A budget silently overrode the sparsity that somebody had written, and an alignment was not kept."""
    with pytest.raises(ValueError, match=said):
        PruningSection(**pruning)
    again = PruningSection(**PruningSection(pattern="channel", align=4).model_dump())
    assert again.align == 4
