"""The tree of errors: exit codes as documented, messages that say what, where and what to do next."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp_export import errors
from pdp_export.errors import FileError, PdpExportError, RecipeError, near_misses

_LINE = re.compile(r"^(?P<indent>[│ ├└─]*)(?P<name>\w+Error)\s+(?P<code>\d+)\s+\S", re.MULTILINE)


def _documented() -> list[tuple[str, str, int]]:
    """Return (class, parent, exit code) of every line of the tree in the module's docstring."""
    rows, parents = [], {0: "Exception"}
    for match in _LINE.finditer(errors.__doc__ or ""):
        depth = len(match["indent"]) // 4
        rows.append((match["name"], parents[depth], int(match["code"])))
        parents[depth + 1] = match["name"]
    return rows


@pytest.mark.parametrize(("name", "parent", "code"), _documented())
def test_a_class_has_the_exit_code_and_parent_of_the_drawn_tree(name: str, parent: str, code: int):
    """Pins an exit code that scripts rely on, changed in the class but not in the documentation."""
    kind = getattr(errors, name)
    assert kind.exit_code == code
    assert kind.__base__.__name__ == parent


def test_the_drawn_tree_holds_every_class():
    """Pins a new error class that the documented table does not mention."""
    classes = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}
    assert classes == {name for name, _, _ in _documented()}


def test_the_message_shows_where_and_next_on_their_own_lines():
    """Pins an error that hides the place or the next step."""
    text = str(PdpExportError("it broke", where="layer conv1", hint="try again"))
    assert text == "it broke\n  where: layer conv1\n  next:  try again"
    assert str(PdpExportError("it broke")) == "it broke"


def test_where_may_be_refined_after_the_error_was_made():
    """Pins a runner that prefixes the stage to `where` without effect on the message."""
    error = FileError("no such file", where="model.pt")
    error.where = f"stage 2/9: {error.where}"
    assert "where: stage 2/9: model.pt" in str(error)


@pytest.mark.parametrize("wrong", ["sparsty", "Sparsity", "SPARSITY"])
def test_near_misses_name_the_word_that_was_meant(wrong: str):
    """Pins suggestions that are lost through a typo or through upper case."""
    assert near_misses(wrong, ["sparsity", "pattern"]) == " (did you mean 'sparsity'?)"


def test_near_misses_say_nothing_about_a_stranger():
    """Pins absurd suggestions for a word that resembles nothing."""
    assert near_misses("zzz", ["sparsity", "pattern"]) == ""
    assert near_misses("x", []) == ""


@given(word=st.text(max_size=30), known=st.lists(st.text(min_size=1, max_size=12), max_size=6))
def test_near_misses_offers_known_words_only(word: str, known: list[str]):
    """Pins a suggestion that is not among the allowed words."""
    text = near_misses(word, known)
    offered = [name for name in known if repr(name) in text]
    assert (text == "") or offered


def test_a_recipe_error_is_caught_as_usage_error():
    """Pins callers that catch the documented parent."""
    with pytest.raises(errors.UsageError):
        raise RecipeError("bad key")
