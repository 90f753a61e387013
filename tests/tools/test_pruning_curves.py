"""The drawings and examples of docs/pruning.md show what the methods do now."""

from __future__ import annotations

import inspect
import re
from itertools import takewhile
from xml.etree import ElementTree

import pytest

from pdp_export.pruning import NM, PRESET_NAMES, Block, Channel, Unstructured
from tools import pruning_curves

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_IDENTITY = re.compile(r'(?<=#|")[a-z][0-9a-f]{10}\b')  # hashes of what they name


@pytest.mark.parametrize("name", sorted(pruning_curves.drawings()))
def test_drawings_are_up_to_date(name: str):
    """A method was changed and the page still shows the old one: run python tools/pruning_curves.py."""
    texts = pruning_curves.drawings()[name], (pruning_curves.FOLDER / name).read_text(encoding="utf-8")
    drawn, stored = (_IDENTITY.sub("id", text) for text in texts)
    assert _NUMBER.sub("#", drawn) == _NUMBER.sub("#", stored)
    pairs = zip(_NUMBER.findall(drawn), _NUMBER.findall(stored), strict=True)
    assert max(abs(float(new) - float(old)) for new, old in pairs) < 0.5


@pytest.mark.parametrize("pattern", [Unstructured, NM, Block, Channel])
def test_the_page_shows_the_worked_matrix_of_each_pattern(pattern: type):
    """The docstring and the page explain one pattern by two different examples."""
    lines = inspect.getdoc(pattern).splitlines()
    start = next(index for index, line in enumerate(lines) if line.endswith("::")) + 2
    matrix = "\n".join(line.strip("\n")[4:] for line in takewhile(bool, lines[start:]))
    assert "kept = " in matrix
    assert f"```\n{matrix}\n```" in (pruning_curves.FOLDER.parent / "pruning.md").read_text(encoding="utf-8")


def test_the_page_describes_every_preset():
    """A preset can be asked for and nothing says what it does."""
    page = (pruning_curves.FOLDER.parent / "pruning.md").read_text(encoding="utf-8")
    for name in PRESET_NAMES:
        assert f"### {name}\n" in page
        assert f"(img/preset-{name.replace('_', '-')}.svg)" in page


def test_no_drawing_is_left_over():
    """A preset was renamed and its old picture stays in the folder."""
    assert {path.name for path in pruning_curves.FOLDER.iterdir()} == set(pruning_curves.drawings())


def test_files_are_images_of_their_own():
    """A drawing that needs the page's style sheet is black on black in an <img>."""
    for text in pruning_curves.drawings().values():
        root = ElementTree.fromstring(text)  # noqa: S314  drawn just now
        assert root.get("width")
        used = set(re.findall(r"var\((--\w+)\)", text))
        assert used <= set(re.findall(r"(--\w+):", text))
        assert "prefers-color-scheme: dark" in text
