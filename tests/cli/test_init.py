"""``pdp-export init``: a starter that runs as it is, and never costs anybody a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pdp_export.recipe import Recipe
from pdp_export.recipe_errors import _section_of
from pdp_export.tasks.model import build_model

# Keys whose starter value is the user's to choose, not the default of the schema.
_CHOSEN = {
    "inputs", "outputs", "model.factory", "data.factory", "data.arguments", "targets", "training.epochs", "training.lr",
    "pruning.sparsity", "pruning.epochs", "preprocessing.mean", "preprocessing.std", "preprocessing.colour",
    "preprocessing.labels",
}  # fmt: skip


def test_the_starter_is_a_valid_recipe_with_a_model_that_builds(project: Path):
    """Pins a starter that fails at its first use after the schema changed."""
    recipe = Recipe.load(project / "recipe.yaml")
    assert sum(parameter.numel() for parameter in build_model(recipe).parameters()) > 1000
    assert len(recipe.preprocessing.labels) == 10


def _keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return every dotted key of the schema with its default."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        default = field.get_default(call_default_factory=True)
        optional = default is not PydanticUndefined and not isinstance(default, BaseModel)
        if section is not None and not optional and prefix + name not in {"inputs", "targets"}:
            found |= _keys(section, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(default) if isinstance(default, tuple) else default
    return found


def _flat(values: dict[str, Any], known: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if dotted in known:
            found[dotted] = value
        else:
            assert isinstance(value, dict), f"{dotted} is no key of the schema"
            found |= _flat(value, known, f"{dotted}.")
    return found


def test_the_starter_names_every_key_with_its_default(project: Path):
    """Pins a new key that nobody finds, or a comment that states yesterday's default."""
    known = _keys(Recipe)
    written = _flat(yaml.safe_load((project / "recipe.yaml").read_text(encoding="utf-8")), known)
    assert set(written) == set(known)
    other = {key: (written[key], known[key]) for key in known if key not in _CHOSEN and written[key] != known[key]}
    assert other == {}


def test_the_starter_names_every_key_of_an_input_and_every_target(project: Path):
    """Pins an input or target option that the starter does not mention."""
    from pdp_export.recipe import InputSection
    from pdp_export.targets_names import TARGET_NAMES

    text = (project / "recipe.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)["inputs"][0]) == set(InputSection.model_fields)
    assert all(f"name: {name}" in text for name in TARGET_NAMES)


@pytest.mark.parametrize("name", ["recipe.yaml", "task.py"])
def test_an_existing_file_is_never_overwritten_unasked(tmp_path: Path, pdp: Callable[..., Any], name: str):
    """Pins hours of a user's work in task.py that a second `init` replaces."""
    (tmp_path / name).write_text("precious", encoding="utf-8")
    ended = pdp("init", "--output", tmp_path)
    assert ended.code == 2
    assert name in ended.err
    assert "--force" in ended.err
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "precious"
    assert pdp("init", "--output", tmp_path, "--force").code == 0
    assert (tmp_path / name).read_text(encoding="utf-8") != "precious"


def test_the_next_command_is_told(tmp_path: Path, pdp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    """Pins a first step that leaves open what the second is."""
    monkeypatch.chdir(tmp_path)
    ended = pdp("init")
    assert "pdp-export prune-and-convert --recipe recipe.yaml" in ended.out
    assert ended.err == ""


def test_json_holds_nothing_else(tmp_path: Path, pdp: Callable[..., Any]):
    """Pins a greeting in the middle of the JSON."""
    written = json.loads(pdp("init", "--output", tmp_path, "--json").out)["written"]
    assert [Path(name).name for name in written] == ["recipe.yaml", "task.py"]
