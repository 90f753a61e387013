"""What a finished run leaves behind and prints: complete, equal to itself, and nothing about the machine's owner."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdp_export import files
from pdp_export.pipeline.stages import NAMES, STAGES, folder_of
from tests.pipeline.conftest import CommandLine
from tests.pipeline.forks import ROOT, Done
from tests.pipeline.prints import assert_clean


def test_everything_is_there(finished: Path):
    """Pins a run directory that lacks what the documentation promises."""
    assert_clean(finished)
    manifest = json.loads((finished / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["stages"]) == list(NAMES)
    for stage in STAGES:
        assert manifest["stages"][stage.name]["output_sha256"] == files.sha256(finished / folder_of(stage))
    assert {item["path"]: item["sha256"] for item in manifest["artifacts"]} == {
        name: files.sha256(finished / name) for name in ("artifacts/model.onnx", "artifacts/dense/model.onnx")
    }
    assert len(manifest["recipe_sha256"]) == 64
    assert any("tiny_task.py" in name for name in manifest["sources"])


def test_the_network_learnt_and_stayed_good(finished: Path):
    """Pins tests of this folder that would prove nothing, because the tiny network never learnt."""
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert report["dense_reference"]["value"] > 0.8
    assert report["targets"][0]["accuracy"]["drop"] < 0.1
    assert report["targets"][0]["size"]["ratio"] > 1.05


def test_json_is_one_object_and_stderr_one_line_per_stage(reference: tuple[Path, Done], finished: Path):
    """Pins library noise in a pipe that somebody parses."""
    done = reference[1]
    assert json.loads(done.out) == json.loads((finished / "report.json").read_text(encoding="utf-8"))
    lines = done.err.splitlines()
    assert [re.match(r"\[\d/9\] ([a-z-]+) \.\.\. ", line)[1] for line in lines] == list(NAMES)  # type: ignore[index]


def test_quiet_is_silent(copied: Path, cli: CommandLine):
    """Pins -q that still talks, and a table that is not on stdout."""
    arguments = ("prune-and-convert", "--recipe", copied / "recipe.yaml", "-o", copied / "out", "--resume", "-q")
    done = cli(*arguments, "--from-stage", "validate")
    assert (done.code, done.err) == (0, "")
    assert "PASS" in done.out


def test_other_commands_read_the_run(finished: Path, copied: Path, cli: CommandLine):
    """Pins a run directory that our own commands cannot read again."""
    shown = cli("report", copied / "out", "--json")
    assert json.loads(shown.out) == json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert json.loads(cli("inspect", finished / "artifacts/model.onnx", "--json").out)["format"]
    checked = cli("validate", copied / "out", "--json")
    assert (checked.code, json.loads(checked.out)["verdict"]) == (0, "PASS"), checked.err
    timed = cli("bench", finished / "artifacts/model.onnx", "--against", finished / "artifacts/dense/model.onnx",
                "--runs", "6", "--json")  # fmt: skip
    assert (timed.code, json.loads(timed.out)["batch"]) == (0, 1), timed.err


def test_no_file_names_a_place_on_this_machine(finished: Path):
    """Pins the name of a customer, or of the person who ran the tool, in a file that travels."""
    secrets = {
        str(finished),
        str(finished.parent),
        finished.parent.name,
        str(ROOT),
        str(Path.home()),
        os.uname().nodename,
    }
    found = [
        (name, secret)
        for name, content in _contents(finished)
        for secret in secrets
        if len(secret) > 4 and secret.encode() in content
    ]
    assert found == []


def _contents(run: Path) -> Iterator[tuple[str, bytes]]:
    for path in run.rglob("*"):
        if path.is_file() and path.name != "log.txt":
            yield path.relative_to(run).as_posix(), path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        yield f"{path.name}:{name}", archive.read(name)


@pytest.mark.parametrize("name", ["report.json", "report.html", "manifest.json"])
def test_the_command_is_told_without_its_place(finished: Path, name: str):
    """Pins a report from which the run cannot be repeated."""
    assert "pdp-export prune-and-convert --recipe recipe.yaml -o out --json" in (
        (finished / name).read_text(encoding="utf-8")
    )
