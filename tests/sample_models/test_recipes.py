"""Every recipe that is shipped validates, and the small ones run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdp_export.errors import RecipeError
from pdp_export.pipeline import api
from pdp_export.recipe import Recipe
from pdp_export.tasks.data import load_data
from pdp_export.tasks.model import build_model
from pdp_export.tasks.references import resolve

FOLDER = Path(__file__).parents[2] / "sample_models" / "recipes"
ALL = sorted(FOLDER.rglob("*.yaml"))
PAPER = sorted((FOLDER / "paper").glob("*.yaml"))
SMALL = sorted(FOLDER.glob("small_*.yaml"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_recipe_validates_and_names_functions_that_exist(path: Path):
    """A key was renamed, or a factory moved, and the recipe that nobody runs was forgotten."""
    recipe = Recipe.load(path)
    for section, reference in (("model", recipe.model.factory), ("data", recipe.data.factory)):
        assert callable(resolve(reference, recipe.folder, f"{section}.factory"))


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_what_was_not_run_says_so_and_how_to(path: Path):
    """A figure beside a recipe that was never run here would pass for ours."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# NOT RUN HERE: ")
    assert f"--recipe {path.relative_to(FOLDER.parents[1]).as_posix()} " in lines[2]
    assert "torchrun --nproc-per-node 8 -m pdp_export prune-and-convert" in lines[2]


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_without_data_the_key_to_fill_in_is_named(path: Path):
    """The first run of such a recipe must end in a sentence, not in a traceback of a library."""
    with pytest.raises(RecipeError, match=r"data\.arguments\.folder"):
        load_data(Recipe.load(path))


@pytest.mark.parametrize("name", ["mobilenet_v1", "resnet50_channel"])
def test_networks_of_the_paper_are_built(name: str):
    """Arguments that the factory does not take would be found on the cluster."""
    model = build_model(Recipe.load(FOLDER / "paper" / f"{name}.yaml"))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx({"mobilenet_v1": 4.23, "resnet50_channel": 25.56}[name], abs=0.01)


def test_each_headline_run_has_a_small_one():
    """What cannot be run here must at least be exercised."""
    patterns = {Recipe.load(path).pruning.pattern for path in PAPER}
    assert patterns == {Recipe.load(path).pruning.pattern for path in SMALL}


@pytest.mark.slow
def test_a_small_recipe_runs_to_the_end(tmp_path: Path):
    """A recipe that validates may still fail in training, conversion or the report."""
    short = {"training.epochs": 1, "pruning.epochs": 1, "gates": {}, "benchmark": {"blocks": 2, "warmup": 1}}
    report = api.prune_and_convert(Recipe.load(FOLDER / "small_rectified.yaml", short), tmp_path / "run")
    assert report is not None
    assert report.masks
    assert all(mask.curves is not None and len(mask.curves.sparsity) == 1 for mask in report.masks)
    assert report.soft_hard_gap is not None
    assert abs(report.soft_hard_gap.soft_value - report.soft_hard_gap.hard_value) < 0.005
    assert "Masks</h2>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_one_shot_recipe_says_that_nothing_was_trained(tmp_path: Path):
    """One-shot goes through the same stages and must not be taken for trained pruning."""
    short = {"training.epochs": 1, "gates": {}, "benchmark": {"blocks": 2, "warmup": 1}}
    report = api.prune_and_convert(Recipe.load(FOLDER / "small_one_shot.yaml", short), tmp_path / "run")
    assert report is not None
    assert report.one_shot
    assert report.recalibration is not None
    assert report.recalibration.after > report.recalibration.before - 0.1
    assert "one-shot (not trained)" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
