"""The public names: exactly those promised, loaded only when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pdp_export


def test_the_list_of_names_is_sorted_and_matches_the_table():
    """Pins a name that is exported but has no home, or a list that drifts out of order."""
    order = sorted(pdp_export.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert pdp_export.__all__ == order
    assert set(pdp_export.__all__) == set(pdp_export._HOMES)
    assert dir(pdp_export) == sorted(pdp_export.__all__)


@pytest.mark.parametrize("name", pdp_export.__all__)
def test_every_name_resolves_to_the_object_of_its_home(name: str):
    """Pins a public name whose module was renamed or no longer defines it."""
    found = getattr(pdp_export, name)
    assert found.__name__ == name
    assert found.__module__.startswith("pdp_export.")


def test_star_import_gives_the_public_names_only():
    """Pins a star import that leaks helpers or fails on a lazy name."""
    scope: dict[str, object] = {}
    exec("from pdp_export import *", scope)  # noqa: S102 - a star import cannot stand inside a function
    assert set(scope) - {"__builtins__"} == set(pdp_export.__all__)


def test_an_unknown_name_is_an_ordinary_attribute_error():
    """Pins a lazy loader that swallows typos (hasattr must stay truthful)."""
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = pdp_export.prune
    assert not hasattr(pdp_export, "onnx")


def test_importing_the_package_loads_no_heavy_library():
    """Pins `import pdp_export` that takes seconds because it imports torch."""
    code = "import sys, pdp_export; print([m for m in ('torch', 'numpy', 'onnx', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
