"""Recipes, flags, models and data that cannot work: one clear error, its exit code, and nothing is lost."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pdp_export import files
from pdp_export.graph.archive import load_program
from pdp_export.pipeline.stages import NAMES
from tests.pipeline.conftest import CommandLine, write_recipe

RUN = ("prune-and-convert", "--recipe", "work/recipe.yaml", "-o", "run")


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--target", "onxx"), 2, ["onxx", "did you mean", "onnx"]),
        (("--precision", "int3"), 2, ["target 'onnx' has no precision 'int3'", "fp32"]),
        (("--encode", "gap9"), 2, ["target 'onnx' has no encoding 'gap9'", "did you mean 'gap' or 'gap8'"]),
        (("--sparsity", "0"), 2, ["pruning.sparsity", "greater than 0"]),
        (("--sparsity", "1"), 2, ["pruning.sparsity", "less than 1"]),
        (("--sparsity", "1.5"), 2, ["pruning.sparsity", "less than 1"]),
        (("--sparsity", "nan"), 2, ["pruning.sparsity"]),
        (("--pattern", "chanel"), 2, ["pruning.pattern", "channel"]),
        (("--weights", "absent.safetensors"), 1, ["absent.safetensors", "does not exist"]),
        (("--device", "gpu9"), 2, ["training.device", "gpu9"]),
        (("--from-stage", "hardn"), 2, ["'hardn'", "did you mean 'harden'"]),
    ],
)
def test_flags_that_cannot_work(tmp_path: Path, cli: CommandLine, flags: tuple[str, ...], code: int, told: list[str]):
    """Pins a mistake that is found after an hour of training, or answered by a traceback."""
    write_recipe(tmp_path / "work")
    done = cli(*RUN, *flags)
    assert (done.code, done.out) == (code, ""), done.err
    assert "Traceback" not in done.err
    assert [words for words in told if words not in done.err] == []
    assert not (tmp_path / "run" / "stages" / "02-train-dense").exists()


def test_a_run_that_its_first_stage_refused_is_begun_again_in_the_same_folder(tmp_path: Path, cli: CommandLine):
    """Pins the corrected command refused, because the one with the mistake left a folder without any result."""
    write_recipe(tmp_path / "work", {"model.factory": "tiny_task.py:biuld"})
    done = cli(*RUN)
    assert (done.code, "no function 'biuld'" in done.err) == (2, True), done.err
    write_recipe(tmp_path / "work", {"data.factory": "tiny_task.py:laod"})
    done = cli(*RUN)
    assert (done.code, "no function 'laod'" in done.err) == (2, True), done.err
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "'biuld'" in log
    assert "'laod'" in log
    assert "tiny_task.py:laod" in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")


def test_an_option_that_the_target_does_not_have(tmp_path: Path, cli: CommandLine):
    """Pins an option that is ignored because its name is misspelt."""
    write_recipe(tmp_path / "work", {"targets": [{"name": "onnx", "options": {"opsett": 18}}]})
    done = cli(*RUN)
    assert done.code == 2
    assert "target 'onnx' has no option 'opsett' (did you mean 'opset'?)" in done.err


def test_a_missing_package_is_told_before_training(tmp_path: Path, cli: CommandLine):
    """Pins an ImportError after training, when the target's package was never installed."""
    write_recipe(tmp_path / "work", {"targets": [{"name": "onnx"}, {"name": "coreml"}]})
    done = cli(*RUN, before=(_without_coremltools,))
    assert done.code == 3
    assert "target 'coreml' needs coremltools, which is not installed" in done.err
    assert "pip install 'pdp-export[coreml]'" in done.err
    assert not (tmp_path / "run" / "stages").exists() or not list((tmp_path / "run" / "stages").iterdir())


def _without_coremltools() -> None:
    from pdp_export import targets

    real: Callable[[str], Any] = targets.find_spec
    targets.find_spec = lambda name: None if name == "coremltools" else real(name)  # type: ignore[assignment]


BRANCHING = """
class Branching(nn.Module):
    def forward(self, image):
        if image.sum() > 0:
            return image.mean(dim=(2, 3)).repeat(1, 2)[:, :4]
        return image.amax(dim=(2, 3)).repeat(1, 2)[:, :4]

def branching(): return Branching()
"""


def test_a_model_that_cannot_be_captured_shows_the_users_line(tmp_path: Path, cli: CommandLine):
    """Pins a page about torch's internals in the place of the one line that has to be changed."""
    write_recipe(tmp_path / "work", {"model.factory": "tiny_task.py:branching"}, task=BRANCHING)
    done = cli(*RUN)
    assert done.code == 4
    assert re.search(r"work/tiny_task\.py:\d+: if image\.sum\(\) > 0:", done.err), done.err
    assert "Traceback" not in done.err


DIVERGING = """
class Fuse(nn.Module):
    calls = 0

    def forward(self, image):
        self.calls += self.training
        return image * (float("nan") if self.calls > 7 else 1.0)

def diverging():
    return nn.Sequential(build()[:6], Fuse(), build()[6:])
"""


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, cli: CommandLine):
    """Pins hours spent on training NaN, or a good checkpoint overwritten by a bad one."""
    write_recipe(tmp_path / "work", {"model.factory": "tiny_task.py:diverging"}, task=DIVERGING)
    done = cli(*RUN)
    assert done.code == 11, done.err
    assert "training stopped at step 8: the activation of layer '1' is NaN or Inf" in done.err
    kept = sorted((tmp_path / "run").glob("checkpoints/train-dense/*/step-*"))
    assert [path.name for path in kept] == ["step-00000005", "step-00000006"]
    from safetensors.torch import load_file

    tensors = load_file(kept[-1] / "tensors.safetensors").values()
    assert all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


FAILING = """
class Failing(Augmented):
    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        if self.reads > 400:
            raise ValueError("no more images")
        return super().__getitem__(index)

def failing():
    return {**load(), "train": DataLoader(Failing(*samples(160, 0)), 32)}
"""


def test_an_error_of_the_users_code_in_training_shows_the_users_line(tmp_path: Path, cli: CommandLine):
    """Pins an error in somebody's own data set that is called a fault of this tool."""
    write_recipe(tmp_path / "work", {"data.factory": "tiny_task.py:failing"}, task=FAILING)
    done = cli(*RUN)
    assert done.code == 2, done.err
    assert "your code raised ValueError: no more images\n" in done.err
    assert re.search(r"stage 2/9 train-dense: work/tiny_task\.py:\d+: raise ValueError", done.err), done.err


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("TensorDataset(torch.zeros(8, 3, 16, 20), torch.zeros(8).long())", ["(8, 3, 16, 20)", "(1, 3, 16, 16)"]),
        ("TensorDataset(torch.zeros(8, 3, 16, 16).double(), torch.zeros(8).long())", ["float64", "float32"]),
        ("TensorDataset(torch.zeros(8, 3, 16, 16))", ["list of length 1", "(inputs, target)"]),
        ("TensorDataset(torch.zeros(8, 3, 16, 16), torch.full((8,), 9))", ["Target 9 is out of bounds"]),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, cli: CommandLine, code: str, told: list[str]):
    """Pins data of a wrong kind that is noticed by a kernel deep inside, in its own words."""
    task = f"def wrong():\n    loader = DataLoader({code}, 8)\n    return {{'train': loader, 'validation': loader}}\n"
    write_recipe(tmp_path / "work", {"data.factory": "tiny_task.py:wrong"}, task=task)
    done = cli(*RUN)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert [words for words in told if words not in done.err] == []


def test_a_finished_run_is_not_touched_without_resume(copied: Path, cli: CommandLine):
    """Pins a run that is overwritten by a second one of the same name."""
    before = files.sha256(copied / "out")
    done = cli("prune-and-convert", "--recipe", copied / "recipe.yaml", "-o", copied / "out")
    assert done.code == 2
    assert "--resume" in done.err
    assert files.sha256(copied / "out") == before


def test_a_stage_alone_needs_the_ones_before_it(tmp_path: Path, copied: Path, cli: CommandLine):
    """Pins a stage that is built upon nothing, and a refusal that leaves a folder in which the real run is refused."""
    write_recipe(tmp_path / "work")
    done = cli(*RUN, "--only", "harden")
    assert done.code == 2
    assert "run is not a run directory" in done.err
    assert not (tmp_path / "run").exists()
    manifest = copied / "out/manifest.json"
    book = json.loads(manifest.read_text(encoding="utf-8"))
    del book["stages"]["prune"]
    manifest.write_text(json.dumps(book), encoding="utf-8")
    done = cli("prune-and-convert", "--recipe", copied / "recipe.yaml", "-o", copied / "out", "--only", "harden")
    assert done.code == 2
    assert "stage 'prune' is not finished" in done.err
    assert json.loads(manifest.read_text(encoding="utf-8"))["stages"] == book["stages"]


@pytest.mark.parametrize("flags", [("--only", "bench"), ("--from-stage", "bench"), ("--resume",)])
def test_going_on_and_starting_over_exclude_each_other(copied: Path, cli: CommandLine, flags: tuple[str, ...]):
    """Pins a run that is deleted although only its last stage was to be repeated."""
    before = files.sha256(copied / "out")
    arguments = ("prune-and-convert", "--recipe", copied / "recipe.yaml", "-o", copied / "out", "--force")
    done = cli(*arguments, *flags)
    assert done.code == 2, done.err
    assert "--force" in done.err
    assert files.sha256(copied / "out") == before


def test_a_dry_run_writes_nothing(tmp_path: Path, cli: CommandLine):
    """Pins a dry run that trains, or leaves a directory in which the real run is refused."""
    write_recipe(tmp_path / "work")
    before = _tree(tmp_path)
    done = cli(*RUN, "--dry-run", "--json")
    assert (done.code, done.err) == (0, "")
    assert _tree(tmp_path) == before
    plan = json.loads(done.out)
    assert [item["name"] for item in plan["stages"]] == list(NAMES)
    assert plan["targets"][0]["predicted_bytes"] < plan["targets"][0]["dense_bytes"]


def _tree(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.name.startswith(".") and "__pycache__" not in path.parts
    }


class Bomb:
    """Pickles to a call of ``open(marker, "w")``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pickle_as_weights_is_not_executed(tmp_path: Path, cli: CommandLine, suffix: str):
    """Pins code that runs because somebody sent "weights"; the payload is proven to work."""
    write_recipe(tmp_path / "work")
    marker, weights = tmp_path / "executed", tmp_path / f"weights{suffix}"
    torch.save({"stem.weight": Bomb(marker)}, weights)
    done = cli(*RUN, "--weights", weights)
    assert done.code == 1
    assert f"weights{suffix}" in done.err
    assert not marker.exists()
    torch.load(weights.rename(tmp_path / "weights.pt"), weights_only=False)["stem.weight"].close()
    assert marker.exists()


def test_a_hostile_program_is_not_executed(tmp_path: Path, finished: Path, cli: CommandLine):
    """Pins code that runs because somebody sent a .pt2: torch's own loader would run it."""
    marker, hostile = tmp_path / "executed", tmp_path / "hostile.pt2"
    _poison(finished / "stages/05-remove-channels/model.pt2", hostile, marker)
    arguments = (
        ("convert", "--model", hostile, "-o", tmp_path / "files", "--target", "onnx"),
        ("validate", finished / "artifacts/model.onnx", "--reference", hostile),
    )
    for line in arguments:
        done = cli(*line)
        assert (done.code, done.out) == (1, ""), done.err
        assert "not executed" in done.err
    assert not marker.exists()
    assert not (tmp_path / "files").exists()


def _poison(program: Path, target: Path, marker: Path) -> None:
    """Copy a program and put a pickle in the place of its first weight."""
    assert load_program(program)
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(target, "w") as copy:
        root = source.namelist()[0].split("/")[0]
        config = json.loads(source.read(f"{root}/data/weights/model_weights_config.json"))
        record = next(iter(config["config"].values()))
        record["use_pickle"] = True
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("model_weights_config.json"):
                data = json.dumps(config).encode()
            if name.endswith(f"weights/{record['path_name']}"):
                data = pickle.dumps(Bomb(marker))
            copy.writestr(name, data)
