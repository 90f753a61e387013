"""Turns ``--recipe`` and the flags beside it into a validated recipe and a run directory."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdp_export.cli.options import flag_of, given, overrides

if TYPE_CHECKING:
    from pdp_export.recipe import Recipe

# Options that belong to one target only.
OWN = {"opset": "onnx", "encode_for": "onnx", "min_ios": "coreml"}


def load_recipe(flags: dict[str, Any]) -> Recipe:
    """Read the recipe and apply the flags.

    Raises:
        RecipeError: quoting the key a flag stands for, and the flag; or for a file that --model names and is not there.
        UsageError: for a flag of a target that is not asked for.
    """
    from pdp_export.recipe import Recipe

    path = Path(flags["recipe"])
    changes = overrides(flags)
    if flags.get("weights"):
        # A flag's path counts from the working directory, a recipe's from the recipe.
        changes["model.weights"] = os.path.relpath(Path(flags["weights"]).resolve(), path.resolve().parent)
    if flags.get("model"):
        changes["model.factory"] = _from_working_directory(flags["model"], path)
    if flags.get("runs"):
        changes |= {"benchmark.blocks": max(2, -(-flags["runs"] // 3)), "benchmark.runs_per_block": 3}
    typed = given(flags)
    recipe = Recipe.load(path, changes, flags=typed)
    if any(flags.get(name) for name in ("targets", "precision", "encoding", *OWN)):
        chosen = {**changes, "targets": _targets(recipe, flags)}
        recipe = Recipe.load(path, chosen, flags={**typed, "targets": "--target"})
    return recipe


def run_folder(flags: dict[str, Any], recipe: Recipe) -> Path:
    """Return the run directory: ``--output``, or ``runs/<name>-<utc>``."""
    if flags.get("output"):
        return Path(flags["output"])
    return Path("runs") / f"{recipe.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _targets(recipe: Recipe, flags: dict[str, Any]) -> list[dict[str, Any]]:
    from pdp_export.errors import UsageError

    own = {section.name: section.model_dump(mode="json") for section in recipe.targets}
    names = list(dict.fromkeys(flags.get("targets") or own))
    chosen = [own.get(name, {"name": name}) for name in names]
    for flag, target in OWN.items():
        if flags.get(flag) is None:
            continue
        if target not in names:
            raise UsageError(f"{flag_of(flag)} belongs to target {target}, which is not asked for", where="--target")
        section = chosen[names.index(target)]
        section["options"] = {**section.get("options", {}), flag: flags[flag]}
    for key in ("precision", "encoding"):
        if flags.get(key):
            for section in chosen:
                section[key] = flags[key]
    return chosen


def _from_working_directory(reference: str, recipe: Path) -> str:
    from pdp_export.errors import RecipeError

    place, colon, name = reference.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise RecipeError(
                f"--model names {place}, which does not exist",
                where="--model",
                hint="paths of flags count from the working directory, those of a recipe from its folder",
            )
        place = os.path.relpath(Path(place).resolve(), recipe.resolve().parent)
    return f"{place}{colon}{name}"
