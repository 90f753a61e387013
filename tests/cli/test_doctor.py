"""``pdp-export doctor``: an honest list of what works here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pdp_export.cli.doctor import TESTED
from pdp_export.converters import registry
from pdp_export.errors import MissingDependencyError
from pdp_export.pipeline import environment


def test_json_is_the_only_thing_on_stdout(pdp: Callable[..., Any]):
    """Pins a library's banner, or a second object, that breaks the JSON of a machine-readable doctor."""
    ended = pdp("doctor", "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert set(told["targets"]) == set(registry.MODULES)
    assert set(told["libraries"]) == set(TESTED)
    assert told["platform"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_table_names_every_library_and_target(pdp: Callable[..., Any]):
    """Pins a doctor that crashes where a person looks at it."""
    ended = pdp("doctor")
    assert ended.code == 0
    assert all(name in ended.out for name in [*TESTED, *registry.MODULES])
    assert "\x1b[" not in ended.out


def test_a_missing_target_shows_the_command_that_installs_it(pdp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    """Pins the extra in square brackets swallowed as markup: pip install 'pdp-export'."""
    target = registry.load("mnn").TARGET.model_copy(update={"modules": ("no_such_library",)})
    monkeypatch.setattr(registry.load("mnn"), "TARGET", target)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(MissingDependencyError):
        target.require()
    assert "pip install 'pdp-export[mnn]'" in pdp("doctor").out
    row = json.loads(pdp("doctor", "--json").out)["targets"]["mnn"]
    assert (row["write"], row["run"], row["next"]) == ("no", "no", "pip install 'pdp-export[mnn]'")


@pytest.mark.parametrize(
    ("installed", "note"),
    [("2.12.1", "another version than tested"), ("2.13.0+cpu", ""), ("", "not installed")],
)
def test_another_version_than_tested_is_told_and_a_local_suffix_is_not(
    pdp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, installed: str, note: str
):
    """Pins an untested torch shown as tested, or the CPU build of the tested one shown as another."""
    versions = {**TESTED, "torch": installed} if installed else {k: v for k, v in TESTED.items() if k != "torch"}
    monkeypatch.setattr(environment, "library_versions", lambda: versions)
    assert json.loads(pdp("doctor", "--json").out)["libraries"]["torch"]["note"] == note


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "aarch64")])
def test_a_machine_we_never_tried_is_called_untested(
    pdp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, system: str, machine: str
):
    """Pins a promise about platforms on which nothing was ever run."""
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert json.loads(pdp("doctor", "--json").out)["platform"]["support"].startswith("untested")
