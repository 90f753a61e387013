"""How raw data became the model's input: facts that travel inside every artifact."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pdp_export.errors import RecipeError

if TYPE_CHECKING:
    from pdp_export.recipe import Recipe

PREFIX = "pdp_export."


def metadata(recipe: Recipe, tool_version: str) -> dict[str, str]:
    """Return the key-value pairs that every artifact carries; values are JSON where they are not text."""
    section = recipe.preprocessing
    layouts = {item.name: item.layout for item in recipe.inputs}
    pairs = {
        "tool": f"pdp-export {tool_version}",
        "mean": json.dumps(section.mean),
        "std": json.dumps(section.std),
        "scale": json.dumps(section.scale),
        "colour": json.dumps(section.colour),
        "layout": json.dumps(layouts, sort_keys=True),
        "labels": json.dumps(section.labels, ensure_ascii=False),
        "pattern": recipe.pruning.pattern,
    }
    return {f"{PREFIX}{key}": value for key, value in pairs.items()}


def check(recipe: Recipe) -> None:
    """Check that mean and std have as many entries as some image input has channels.

    Raises:
        RecipeError: naming the key, its length and the channels.
    """
    for key in ("mean", "std"):
        values = getattr(recipe.preprocessing, key)
        channels = {item.shape[3 if item.layout == "NHWC" else 1] for item in recipe.inputs if len(item.shape) == 4}  # noqa: PLR2004 - images have four axes
        if values is not None and channels and len(values) not in channels:
            raise RecipeError(
                f"preprocessing.{key} has {len(values)} entries, the image input has {sorted(channels)} channels",
                where=f"preprocessing.{key}",
            )
