"""Recipes and networks of the tests of tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdp_export.recipe import Recipe


@pytest.fixture
def recipe_of(tmp_path: Path) -> Callable[..., Recipe]:
    """Return a maker of recipes: `source` becomes the task.py beside the recipe, the rest replaces keys."""

    def make(source: str = "", **changes: Any) -> Recipe:
        (tmp_path / "task.py").write_text(f"import torch\nfrom torch import nn\n{source}", encoding="utf-8")
        values: dict[str, Any] = {
            "model": {"factory": "task.py:build"},
            "data": {"factory": "task.py:load"},
            "inputs": [{"name": "image", "shape": [1, 3, 4, 4], "dynamic": {0: "batch"}}],
            "outputs": ["logits"],
        }
        return Recipe.parse({**values, **changes}, base_dir=tmp_path)

    return make
