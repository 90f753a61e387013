"""Packaging: what is declared is what is there, for every way of installing."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pdp_export.cli.doctor import TESTED
from pdp_export.converters import registry
from pdp_export.pipeline.environment import LIBRARIES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MAKE_TARGETS = ["install", "demo", "test", "test-all", "check", "lint", "type", "bench", "docs", "wheel", "clean"]


def _lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def _package_folders() -> dict[str, Path]:
    """Return every package of the tree by its dotted name, the linked converters included."""
    found = {}
    for folder, _, names in os.walk(ROOT / "pdp_export", followlinks=True):
        if "__init__.py" in names:
            found[Path(folder).relative_to(ROOT).as_posix().replace("/", ".")] = Path(folder)
    return found


def _tracked() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository here")
    done = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.exists() or path.is_symlink()]


def _texts() -> list[tuple[str, str]]:
    found = []
    for path in _tracked():
        if path.is_file() and not path.is_symlink():
            found.append((path.relative_to(ROOT).as_posix(), path.read_bytes().decode("utf-8", errors="ignore")))
    return found


def test_the_list_of_packages_equals_the_tree():
    """Pins a new folder that works from the checkout and is missing from the wheel."""
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(_package_folders())


def test_every_data_file_is_packaged():
    """Pins a template or starter file that only exists in the checkout."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for name, folder in _package_folders().items():
        inner = [item for item in folder.rglob("*") if item.is_file() and "__pycache__" not in item.parts]
        for item in inner:
            relative = item.relative_to(folder).as_posix()
            in_package = item.suffix == ".py" and (item.parent / "__init__.py").exists()
            deeper = any(item.is_relative_to(other) for other in _package_folders().values() if other.parent == folder)
            if not in_package and not deeper:
                assert any(fnmatch.fnmatch(relative, pattern) for pattern in patterns.get(name, [])), item


def test_the_converters_are_one_link_to_one_folder():
    """Pins a copied folder in place of the link, or a link that leaves the tree."""
    link = ROOT / "pdp_export" / "converters"
    assert link.is_symlink()
    assert link.readlink().as_posix() == "../converters"


@pytest.mark.parametrize("name", ["converters", "converters.registry", "converters.onnx_export"])
def test_the_converters_refuse_a_second_name(name: str):
    """Pins two copies of every converter, whose classes differ, when the root is the working directory."""
    command = [sys.executable, "-c", f"import {name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: import pdp_export.converters, not converters" in done.stderr


def test_nothing_but_our_package_is_installed():
    """Pins a stray top-level `converters` in the user's environment."""
    code = "import importlib.util as u; print([n for n in ('converters', 'sample_models', 'tools') if u.find_spec(n)])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", registry.MODULES)
def test_the_extra_that_an_error_names_exists_and_brings_the_modules(name: str):
    """Pins advice to install an extra that pip does not know, or that does not help."""
    target = registry.load(name).TARGET
    distributions = packages_distributions()
    if target.extra is not None:
        assert target.extra in EXTRAS
    declared = _names([*PROJECT["project"]["dependencies"], *EXTRAS.get(target.extra or "", [])])
    for module in target.modules:
        known = {canonicalize_name(item) for item in distributions.get(module.partition(".")[0], [])}
        assert not known or known & declared, f"{module} comes from {known}"


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def test_the_extra_all_holds_every_other_one():
    """Pins a new target that pdp-export[all] leaves out."""
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).extras == set(EXTRAS) - {"all", "dev"}


def test_every_library_we_import_is_declared():
    """Pins a library that only happens to be there because something else needs it today."""
    declared = _names([*PROJECT["project"]["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])
    distributions = packages_distributions()
    undeclared = set()
    for folder in _package_folders().values():
        for path in folder.glob("*.py"):
            for name in _imported(path):
                owners = {canonicalize_name(item) for item in distributions.get(name, [])}
                if owners and not owners & declared:
                    undeclared.add(f"{path.name} imports {name} of {', '.join(sorted(owners))}")
    assert undeclared == set()


def _imported(path: Path) -> set[str]:
    """Return the top-level modules that a file imports, those for type checking only left out."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
        pending.extend(ast.iter_child_nodes(node))
    return found - set(sys.stdlib_module_names)


def test_the_lock_holds_plain_versions_only():
    """Pins a local build, a path or an address of this machine in the lock file."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line), line
    assert _lock()["torch"] == "2.13.0"
    assert len(_lock()) == sum(not line.startswith("#") for line in lines)


@pytest.mark.parametrize("extra", ["", *(name for name in EXTRAS if name != "all")])
def test_the_lock_lies_within_the_declared_ranges(extra: str):
    """Pins a lock file that pip would not have chosen, or that lacks a package of an extra."""
    lock = _lock()
    for line in EXTRAS[extra] if extra else PROJECT["project"]["dependencies"]:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            version = lock[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), f"{line}, locked {version}"


def test_doctor_states_the_versions_of_the_lock():
    """Pins a "tested with" column that nobody updated with the lock."""
    lock = _lock()
    assert {name: lock[canonicalize_name(name)] for name in TESTED} == TESTED
    assert set(LIBRARIES) == set(TESTED)


@pytest.mark.parametrize("target", MAKE_TARGETS)
def test_a_promised_make_target_exists_explains_itself_and_sets_up_what_it_needs(target: str):
    """Pins a target that `make help` does not list, or that fails in a fresh clone."""
    match = re.search(rf"^{re.escape(target)}:(?P<needs>[^#\n]*)## (?P<help>\S.*)$", MAKEFILE, re.MULTILINE)
    assert match is not None
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert target in phony[1].split()
    if target != "clean":
        assert match["needs"].split()
        assert set(match["needs"].split()) <= {"$(STAMP)", *re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)}


def test_make_without_arguments_lists_the_targets():
    """Pins a help that loses targets to its own pattern, or a bare `make` that starts to install."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    done = subprocess.run([make, "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert set(MAKE_TARGETS) <= set(listed)


def test_no_tracked_file_tells_a_path_of_a_machine():
    """Pins the developer's home or checkout in a recipe, a report or a lock file."""
    pattern = re.compile(r"(?<![\w.])/(?:home/(?!me/)|Users/|root/|work/)\w+")
    places = [(name, match[0]) for name, text in _texts() for match in pattern.finditer(text)]
    assert [place for place in places if place[0] != "tests/test_packaging.py"] == []
    here = ROOT.resolve().as_posix()
    assert [name for name, text in _texts() if here in text] == []


def test_no_tracked_file_names_the_registry_of_this_machine():
    """Pins an address of a private package index that travels with the repository."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    configured = " ".join([listed, *(value for name, value in os.environ.items() if name.startswith("PIP_"))])
    hosts = {urlsplit(address).hostname for address in re.findall(r"https?://[^\s'\"]+", configured)}
    for host in hosts - {None}:
        assert [name for name, text in _texts() if str(host) in text] == []
    assert [name for name, text in _texts() if "files.python" + "hosted" in text] == []


def test_ci_runs_what_a_developer_runs():
    """Pins a CI script that cannot be started, or that checks something else than make does."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make check test" in script.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_wheel_built_from_the_sdist_runs_outside_the_tree(tmp_path: Path):
    """Pins an sdist that lost the converters, the starter or a template: the wheel is installed and used elsewhere."""
    copy = tmp_path / "copy"
    for path in _tracked():
        place = copy / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
    build = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", str(tmp_path / "dist"), str(copy)]
    for command in (build, [sys.executable, str(ROOT / "tools" / "try_wheel.py"), str(tmp_path / "dist")]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
