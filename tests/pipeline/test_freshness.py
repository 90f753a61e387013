"""What a stage reads decides whether its output is still good."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pdp_export.pipeline.freshness import input_hash
from pdp_export.pipeline.stages import STAGES, position
from pdp_export.recipe import Recipe
from tests.pipeline.conftest import write_recipe


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"targets": [{"name": "mnn"}]}, False),
        ({"benchmark.threads": 2}, False),
        ({"removal.objective": "macs"}, False),
        ({"benchmark.blocks": 7}, True),
    ],
)
def test_removal_depends_on_all_that_decides_its_plan(tmp_path: Path, changes: dict[str, Any], same: bool):
    """Pins a plan for the alignment of other targets, or for other threads, that a resumed run keeps."""
    stage = STAGES[position("remove-channels")]
    book: Any = SimpleNamespace(stages={need: SimpleNamespace(output_sha256="0") for need in stage.needs})
    before, after = (Recipe.load(write_recipe(tmp_path / name, new)) for name, new in (("a", None), ("b", changes)))
    assert (input_hash(stage, before, book) == input_hash(stage, after, book)) is same
