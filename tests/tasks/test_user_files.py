"""Files behind a reference, found without running them."""

from __future__ import annotations

from pathlib import Path

from pdp_export.tasks.user_files import source_files


def test_the_source_is_found_without_importing_it(tmp_path: Path):
    """Pins a resume that runs the user's code only to learn whether it changed, or that misses the change."""
    path = tmp_path / "task.py"
    path.write_text("raise SystemExit\n", encoding="utf-8")
    assert source_files("task.py:build", tmp_path) == [path]
    assert source_files("math:sqrt", tmp_path) == []
    assert source_files("no_such_package.net:build", tmp_path) == []
    assert "decoder.py" in [file.name for file in source_files("json.decoder:JSONDecoder", tmp_path)]


def test_neighbours_are_followed(tmp_path: Path):
    """Pins a resume that goes on with results of an old helper module beside the task file."""
    for name, text in (
        ("task.py", "import layers\nfrom data.sets import digits\nimport torch\n"),
        ("layers.py", "def f():\n    import deep\n"),
        ("deep.py", "import task\n"),
        ("stranger.py", ""),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("", encoding="utf-8")
    found = [path.relative_to(tmp_path).as_posix() for path in source_files("task.py:build", tmp_path)]
    assert found == ["data/__init__.py", "deep.py", "layers.py", "task.py"]
