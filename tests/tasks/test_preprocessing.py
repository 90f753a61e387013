"""Preprocessing facts: checked against the model's input and carried as text."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pdp_export.errors import RecipeError
from pdp_export.recipe import Recipe
from pdp_export.tasks.preprocessing import PREFIX, check, metadata


def test_every_fact_travels_as_text_that_reads_back(recipe_of: Callable[..., Recipe]):
    """Pins mean, labels or layout that an app cannot recover from the file."""
    facts = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0], "colour": "BGR", "labels": ["Katze", "Köter", "null"]}
    inputs = [{"name": "image", "shape": [1, 4, 4, 3], "layout": "NHWC"}]
    pairs = metadata(recipe_of(preprocessing=facts, inputs=inputs), "9.9")
    assert all(key.startswith(PREFIX) and isinstance(value, str) for key, value in pairs.items())
    for key, value in facts.items():
        assert json.loads(pairs[f"{PREFIX}{key}"]) == value
    assert json.loads(pairs[f"{PREFIX}layout"]) == {"image": "NHWC"}
    assert json.loads(pairs[f"{PREFIX}scale"]) == 255.0
    assert pairs[f"{PREFIX}tool"] == "pdp-export 9.9"
    assert "Köter" in pairs[f"{PREFIX}labels"]


def test_facts_that_are_not_given_are_null_and_not_left_out(recipe_of: Callable[..., Recipe]):
    """Pins a reader that cannot tell "none needed" from "forgotten"."""
    pairs = metadata(recipe_of(), "9.9")
    assert (pairs[f"{PREFIX}mean"], pairs[f"{PREFIX}labels"]) == ("null", "[]")


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", [1, 3, 4, 5]), ("NHWC", [1, 4, 5, 3]), ("any", [1, 3, 4, 5])])
def test_a_mean_of_another_number_of_channels_is_refused(
    recipe_of: Callable[..., Recipe], layout: str, shape: list[int]
):
    """Pins a grey mean for a colour image, or channels counted along the wrong axis."""
    inputs = [{"name": "image", "shape": shape, "layout": layout}]
    check(recipe_of(inputs=inputs, preprocessing={"mean": [1, 2, 3], "std": [1, 2, 3]}))
    with pytest.raises(RecipeError, match=r"preprocessing\.std has 1 entries, the image input has \[3\] channels"):
        check(recipe_of(inputs=inputs, preprocessing={"std": [1]}))


def test_an_input_without_channels_takes_any_mean(recipe_of: Callable[..., Recipe]):
    """Pins a refusal of audio or tables, which have no channel axis to count."""
    check(recipe_of(inputs=[{"name": "table", "shape": [1, 12]}], preprocessing={"mean": [0.5]}))
