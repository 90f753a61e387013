"""The documentation says what the code does."""

from __future__ import annotations

from pathlib import Path

import yaml

from pdp_export.converters import registry
from pdp_export.pipeline.stages import NAMES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_recipe_page_holds_the_starter_recipe():
    """A key is added to the starter recipe and the page still shows the old one."""
    starter = (ROOT / "pdp_export/cli/starter/recipe.yaml").read_text(encoding="utf-8")
    assert f"```yaml\n{starter}```" in (DOCS / "recipe.md").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation():
    """A page exists that no reader finds, or the navigation names one that does not exist."""
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(_files(navigation)) == pages


def test_every_target_has_a_page():
    """A target can be asked for and nothing says what to expect from it."""
    assert {path.stem for path in (DOCS / "targets").glob("*.md")} == set(registry.MODULES)


def test_start_page_draws_the_stages_in_order():
    """The drawing of the pipeline names stages that do not exist any more."""
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    assert "recipe ─► " + " ─► ".join(NAMES) in text


def _files(item):
    if isinstance(item, str):
        return [item]
    values = item.values() if isinstance(item, dict) else item
    return [file for value in values for file in _files(value)]
