"""The callbacks' libraries: loaded on use, and named with their pip extra where they are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pdp_export import integrations
from pdp_export.errors import MissingDependencyError


@pytest.mark.parametrize(
    ("name", "module", "library", "extra"),
    [
        ("LightningPruning", "lightning_callback", "pytorch_lightning", "lightning"),
        ("HuggingFacePruning", "hf_callback", "transformers", "nlp"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(monkeypatch, name, module, library, extra):
    """Pins a ModuleNotFoundError that leaves the reader to guess what to install."""
    monkeypatch.delitem(sys.modules, f"pdp_export.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match="is not installed") as caught:
        getattr(integrations, name)
    assert caught.value.hint == f"pip install 'pdp-export[{extra}]'"


def test_nothing_heavy_is_imported_before_use():
    """Pins an import of one trainer's library by the users of the other."""
    heavy = ("torch", "pytorch_lightning", "transformers")
    code = f"import sys, pdp_export.integrations as i; print(dir(i), [m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['HuggingFacePruning', 'LightningPruning'] []"


def test_an_unknown_name_is_an_ordinary_attribute_error():
    """Pins a lazy loader that swallows typos."""
    assert not hasattr(integrations, "KerasPruning")
