"""One-shot, distillation, BatchNorm measured again, and torchrun: from the recipe to the run directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline.conftest import CommandLine, write_recipe
from tests.pipeline.forks import ROOT

RUN = ("prune-and-convert", "--recipe", "work/recipe.yaml", "-o", "run")
PRUNE = ("prune", "--recipe", "work/recipe.yaml", "-o", "run")
DENSE, HARD = "stages/02-train-dense/model.safetensors", "stages/04-harden/model.safetensors"


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text(encoding="utf-8"))


def _cache_in(folder: str) -> None:
    os.environ["XDG_CACHE_HOME"] = folder


def test_one_shot_writes_zeros_and_measures_batchnorm_again(tmp_path: Path, cli: CommandLine):
    """Pins a one-shot run that trains, folds masks nobody trained into the weights, or does not say what it is."""
    write_recipe(tmp_path / "work", {"removal.measure": "onnx"})
    done = cli(*RUN, "--epochs", "0", before=(_cache_in, str(tmp_path / "cache")))
    assert done.code == 0, done.err
    run = tmp_path / "run"
    removal = next(run.glob("stages/*/removal.json"))
    assert "measured on onnxruntime" in json.loads(removal.read_text())["report"]["cost_of"]
    assert any((tmp_path / "cache").rglob("*.json"))
    dense, hard = load_file(run / DENSE), load_file(run / HARD)
    body = hard["body.weight"]
    assert int((body == 0).sum()) == round(0.7 * body.numel())
    assert torch.equal(body[body != 0], dense["body.weight"][body != 0])
    assert dense["body.weight"][body == 0].abs().max() <= body[body != 0].abs().min()
    changed = {name for name in hard if not torch.equal(hard[name], dense[name])}
    norms = {f"{layer}.running_{kind}" for layer in ("stem_norm", "body_norm") for kind in ("mean", "var")}
    assert changed - {"stem_norm.num_batches_tracked", "body_norm.num_batches_tracked"} == {"body.weight", *norms}
    report, harden = read(run, "report.json"), read(run, "stages/04-harden/harden.json")
    assert [epoch["phase"] for epoch in report["history"]] == ["dense"] * 3
    assert "one-shot (not trained)" in report["stages"][2]["summary"]
    assert "one-shot (not trained)" in (run / "report.html").read_text(encoding="utf-8")
    assert harden["one_shot"]
    assert harden["recalibration"]["layers"] == 2
    assert harden["recalibration"]["after"] == harden["hard"] == report["soft_hard_gap"]["hard_value"]


def test_a_budget_is_told_instead_of_the_sparsity_that_is_not_read(tmp_path: Path, cli: CommandLine):
    """Pins a dry run and a stage that speak of sparsity 0.9 where a budget decided."""
    write_recipe(
        tmp_path / "work", {"pruning.budget": {"parameters": 0.6}, "pruning.sparsity": None, "pruning.epochs": 0}
    )
    planned = cli("prune-and-convert", "--recipe", "work/recipe.yaml", "--dry-run", "--json")
    assert planned.code == 0, planned.err
    done = cli(*PRUNE)
    assert done.code == 0, done.err
    stage = json.loads((tmp_path / "run/manifest.json").read_text())["stages"]["prune"]["result"]
    body = load_file(tmp_path / "run" / HARD)["body.weight"]
    share = float((body == 0).float().mean())
    assert stage["summary"].startswith("unstructured, parameters 0.6, ")
    assert stage["figures"]["pruned_share"] == pytest.approx(share)
    assert json.loads(planned.out)["goal"] == "unstructured, parameters 0.6"


def test_the_options_of_training_reach_it(tmp_path: Path, cli: CommandLine, finished: Path):
    """Pins a key of the recipe that is accepted and forgotten: the pruned weights must depend on each of them."""
    section = {"weight": 0.9, "temperature": 3.0, "hidden": ["body"]}
    write_recipe(tmp_path / "work", {"distillation": section, "pruning.recalibrate_batchnorm": True})
    done = cli(*PRUNE)
    assert done.code == 0, done.err
    run = tmp_path / "run"
    assert torch.equal(load_file(run / DENSE)["body.weight"], load_file(finished / DENSE)["body.weight"])
    assert not torch.equal(load_file(run / HARD)["body.weight"], load_file(finished / HARD)["body.weight"])
    assert read(run, "stages/04-harden/harden.json")["recalibration"]["batches"] == 5
    history = read(run, "stages/03-prune/history.json")
    assert [[row["name"] for row in epoch["layers"]] for epoch in history["epochs"]] == [["body"]] * 3
    assert history["layers"] == history["epochs"][-1]["layers"]
    assert read(finished, "stages/04-harden/harden.json")["recalibration"] is None


@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["run", "dry-run"])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"distillation": {"hidden": ["bodi"]}}, "'bodi', a module that the model does not have (did you mean 'body'"),
        ({"distillation": {"outputs": ["logit"]}}, "'logit' (did you mean 'logits'?)"),
        ({"distillation": {"weight": 2}}, "distillation.weight is 2"),
        ({"distillation": {"heat": 2}}, "unknown key 'distillation.heat'"),
        ({"distillation": {}, "pruning.epochs": 0}, "pruning.epochs is 0, so nothing is trained"),
        ({"training.label_smoothing": 0.1, "task.loss": "tiny_task.py:loss"}, "training.label_smoothing is 0.1"),
        ({"training.lr_schedule": "one_cycle", "training.lr_warmup": 0.1}, "lr_warmup 0.1 does not go with one_cycle"),
        ({"training.accumulate": 0}, "training.accumulate is 0"),
        ({"training.ema": 1.0}, "training.ema is 1.0"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    tmp_path: Path, cli: CommandLine, changes: dict[str, Any], told: str, flags: tuple[str, ...]
):
    """Pins an hour of training that ends in an error which was known at its start."""
    write_recipe(tmp_path / "work", changes, task="def loss(outputs, target):\n    return outputs.sum()\n")
    done = cli(*RUN, *flags)
    assert (done.code, done.out) == (2, ""), done.err
    assert told in done.err
    assert not (tmp_path / "run" / "stages" / "02-train-dense").exists()


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in two processes, as a user would."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return subprocess.run(
        [*command, "pdp_export", *arguments], cwd=folder, capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_makes_one_run_that_one_process_goes_on_with(tmp_path: Path, cli: CommandLine):
    """Pins two processes in one run directory, lines printed twice, or a run that only torchrun can go on with."""
    write_recipe(tmp_path / "work", {"training.device": "cpu", "distillation": {"hidden": ["body"]}})
    done = torchrun(tmp_path, *PRUNE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train-dense ...") == 1
    assert done.stdout.count("next:") == 1
    history = read(tmp_path / "run", "stages/03-prune/history.json")["epochs"]
    assert len(history) == 3
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    weights = load_file(tmp_path / "run" / HARD)
    assert int((weights["body.weight"] == 0).sum()) == round(0.7 * weights["body.weight"].numel())
    again = cli(*RUN, "--resume")
    assert again.code == 0, again.err
    assert read(tmp_path / "run", "report.json")["verdict"] == "PASS"


@pytest.mark.slow
def test_an_error_before_training_ends_every_process(tmp_path: Path):
    """Pins processes that wait forever for a first one that has stopped."""
    write_recipe(tmp_path / "work", {"model.factory": "tiny_task.py:none"})
    done = torchrun(tmp_path, *PRUNE)
    assert done.returncode == 1
    assert done.stderr.count("has no function 'none'") == 1
