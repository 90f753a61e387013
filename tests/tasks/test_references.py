"""The user's own functions: found by file or module, and blamed by their own line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pdp_export.errors import MissingDependencyError, RecipeError
from pdp_export.tasks.references import call, resolve


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _refused(reference: str, folder: Path) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        resolve(reference, folder, "model.factory")
    return caught.value


def test_a_file_counts_from_the_recipe_and_may_import_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pins references that only work from the recipe's folder, or a neighbour imported only when it is needed."""
    _write(tmp_path, "project/pdp_test_neighbour.py", "WIDTH = 3\n")
    _write(tmp_path, "project/net.py", "def build():\n    from pdp_test_neighbour import WIDTH\n    return WIDTH\n")
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert resolve("net.py:build", tmp_path / "project", "model.factory")() == 3
    assert resolve("project/net.py:build", tmp_path, "model.factory")() == 3


def test_two_files_of_the_same_name_stay_apart(tmp_path: Path):
    """Pins the first task.py answering for every later one in the same process."""
    for name in ("one", "other"):
        _write(tmp_path, f"{name}/task.py", f"def build(): return {name!r}\n")
    assert resolve("task.py:build", tmp_path / "one", "k")() == "one"
    assert resolve("task.py:build", tmp_path / "other", "k")() == "other"


def test_a_file_is_imported_once(tmp_path: Path):
    """Pins two copies of the user's classes, of which isinstance says they differ."""
    _write(tmp_path, "task.py", "class Net: pass\ndef build(): return Net()\n")
    assert type(resolve("task.py:build", tmp_path, "k")()) is resolve("task.py:Net", tmp_path, "k")


def test_a_module_is_found_by_name(tmp_path: Path):
    """Pins module:function, the form for installed packages."""
    assert resolve("collections:OrderedDict", tmp_path, "k")() == {}
    assert resolve("os.path:join", tmp_path, "k")("a", "b") == str(Path("a") / "b")


@pytest.mark.parametrize("reference", ["task.py", "build", ":build", "task.py:", ""])
def test_what_is_no_reference_is_quoted(tmp_path: Path, reference: str):
    """Pins an obscure import error for a forgotten colon."""
    error = _refused(reference, tmp_path)
    assert repr(reference) in error.what
    assert "file.py:function" in str(error.hint)


def test_a_missing_file_is_told_with_the_place_it_was_looked_for(tmp_path: Path):
    """Pins a message that leaves open which folder paths count from."""
    error = _refused("taks.py:build", tmp_path)
    assert "model.factory names taks.py, which does not exist" in error.what
    assert "recipe's folder" in str(error.hint)


def test_a_missing_function_is_told_with_near_misses(tmp_path: Path):
    """Pins an AttributeError for a typo after the colon."""
    _write(tmp_path, "task.py", "def build_model(): ...\nbuilt = 3\n")
    assert "no function 'buildmodel' (did you mean 'build_model'?)" in _refused("task.py:buildmodel", tmp_path).what
    assert "no function 'built'" in _refused("task.py:built", tmp_path).what


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("no_such_package.net:build", "'no_such_package' is not installed"),
        ("collections.no_such:build", "'collections.no_such' is not installed"),
        (".relative:build", "TypeError"),
    ],
)
def test_a_missing_module_is_named(tmp_path: Path, reference: str, told: str):
    """Pins a traceback for a package that is not installed."""
    assert told in _refused(reference, tmp_path).what


@pytest.mark.parametrize(
    ("text", "told", "line"),
    [
        ("import os\nimport no_such_library\n", "No module named 'no_such_library'", "2: import no_such_library"),
        ("x = 1\ndef build(:\n    pass\n", "SyntaxError", "2: def build(:"),
        (
            "import json\ndef read():\n    return json.loads('')\nread()\n",
            "JSONDecodeError",
            "3: return json.loads('')",
        ),
        ("import sys\nsys.exit(3)\n", "SystemExit", "2: sys.exit(3)"),
        ("def f():\n    raise ValueError\nf()\n", "ValueError", "2: raise ValueError"),
    ],
)
def test_an_import_that_fails_shows_the_users_own_line(tmp_path: Path, text: str, told: str, line: str):
    """Pins an error that points into the standard library or into us, or a script that silently exits for us."""
    _write(tmp_path, "own_task.py", text)
    error = _refused("own_task.py:build", tmp_path)
    assert told in error.what
    assert str(error.where).endswith(f"own_task.py:{line}")
    assert str(tmp_path.parent) not in str(error.where)


def test_a_failed_import_is_tried_again_after_the_file_was_corrected(tmp_path: Path):
    """Pins a half-imported module that is remembered as good."""
    _write(tmp_path, "task.py", "1 / 0\n")
    _refused("task.py:build", tmp_path)
    _write(tmp_path, "task.py", "def build(): return 5  # corrected\n")
    assert resolve("task.py:build", tmp_path, "k")() == 5


def test_a_folder_named_like_us_is_still_the_users(tmp_path: Path):
    """Pins user code that is taken for ours because its folder's name begins with pdp_export."""
    _write(tmp_path, "pdp_export_demo/net.py", "def build():\n    raise KeyError('depth')\n")
    with pytest.raises(RecipeError) as caught:
        call(resolve("net.py:build", tmp_path / "pdp_export_demo", "k"), {}, "model.factory")
    assert caught.value.where == "pdp_export_demo/net.py:2: raise KeyError('depth')"


def test_a_factory_that_fails_is_quoted_with_key_and_line(tmp_path: Path):
    """Pins "unexpected ZeroDivisionError, this is a fault of pdp-export" for a fault of the user's."""
    _write(tmp_path, "net.py", "def build(width):\n    return 1 / width\n")
    factory = resolve("net.py:build", tmp_path, "model.factory")
    with pytest.raises(RecipeError) as caught:
        call(factory, {"width": 0}, "model.factory")
    assert "model.factory raised ZeroDivisionError" in caught.value.what
    assert str(caught.value.where).endswith("net.py:2: return 1 / width")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_wrong_argument_is_told_with_the_key(tmp_path: Path):
    """Pins `where` pointing at a line of ours for a misspelt key in model.arguments."""
    _write(tmp_path, "net.py", "def build(width): ...\n")
    with pytest.raises(RecipeError, match="unexpected keyword argument 'widht'") as caught:
        call(resolve("net.py:build", tmp_path, "k"), {"widht": 1}, "model.factory")
    assert caught.value.where == "model.factory"


def test_an_error_of_ours_passes_through_a_factory():
    """Pins a precise refusal (and its exit code) that is rewrapped as "factory raised"."""

    def factory() -> None:
        raise MissingDependencyError("mlxtend is not installed", hint="pip install mlxtend")

    with pytest.raises(MissingDependencyError, match="mlxtend"):
        call(factory, {}, "data.factory")
