"""The public functions from Python, as the documentation shows them; each test runs in a warm fork."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.pipeline import forks
from tests.pipeline.conftest import CommandLine, write_recipe


def test_the_documented_loop(tmp_path: Path):
    """Pins the three lines for anybody's own training loop."""
    log = tmp_path / "log"
    assert forks.run(_loop, tmp_path, log=log) == 0, log.read_text(encoding="utf-8")


def _loop(folder: Path) -> None:
    import torch

    import pdp_export as pdp
    from tests.pipeline.tiny_task import build, load

    model, batches = build(), load()["train"]
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    epochs = 3
    pruner = pdp.Pruner(model, pdp.Unstructured(0.8), pdp.Schedule(steps=epochs * len(batches)))
    for _ in range(epochs):
        for inputs, target in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), target).backward()
            optimizer.step()
            pruner.step()
    pruner.harden()
    weight = model.get_submodule("body").weight
    assert 0.75 < float((weight == 0).double().mean()) < 0.99
    assert [name for name, _ in model.named_modules() if "parametriz" in name] == []

    example = inputs[:2]
    removed = pdp.remove_channels(model, (example,))
    artifact = pdp.convert(removed.program, folder / "model.onnx", target="onnx")
    verdict = pdp.validate(artifact, reference=removed.program, inputs=example)
    assert verdict.verdict is pdp.Verdict.PASS, verdict
    assert pdp.validate(folder / "model.onnx", reference=model, inputs=example).verdict is pdp.Verdict.PASS
    assert artifact.facts.zeros >= int((weight == 0).sum())


def test_the_whole_pipeline_and_its_errors(tmp_path: Path, finished: Path):
    """Pins an API that differs from the command line: other errors, another report."""
    log = tmp_path / "log"
    assert forks.run(_pipeline, write_recipe(tmp_path / "work"), tmp_path, log=log) == 0, log.read_text("utf-8")
    name = "stages/02-train-dense/model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def _pipeline(recipe: Path, folder: Path) -> None:
    import pytest

    import pdp_export as pdp
    from pdp_export.errors import RecipeError, RunDirectoryError
    from pdp_export.pipeline.runner import Selection

    run = folder / "run"
    with pytest.raises(RecipeError, match="sparsity"):
        pdp.Recipe.load(recipe, {"pruning.sparsity": 2})
    assert not run.exists()
    assert pdp.prune_and_convert(pdp.Recipe.load(recipe), run, selection=Selection(until="train-dense")) is None
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        pdp.prune_and_convert(recipe, run)


def test_a_flipped_weight_is_found(tmp_path: Path, finished: Path, cli: CommandLine):
    """Pins a validation that compares outputs only, where one wrong weight drowns in the tolerance."""
    log, damaged = tmp_path / "log", tmp_path / "model.onnx"
    assert forks.run(_flip, finished / "artifacts/dense/model.onnx", damaged, log=log) == 0, log.read_text("utf-8")
    program = finished / "stages/05-remove-channels/dense.pt2"
    arguments: tuple[Any, ...] = ("--reference", program, "--atol", "0.5")
    assert cli("validate", finished / "artifacts/dense/model.onnx", *arguments).code == 0
    done = cli("validate", damaged, *arguments)
    assert done.code == 5, done.out
    assert "weights FAIL" in done.out
    assert "1 differ" in done.out


def _flip(source: Path, damaged: Path) -> None:
    """Negate the smallest weight of the first convolution."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    stored = next(item for item in model.graph.initializer if len(item.dims) == 4)
    values = numpy_helper.to_array(stored).copy()
    values.flat[np.abs(values).argmin()] *= -1
    stored.CopyFrom(numpy_helper.from_array(values, stored.name))
    onnx.save(model, damaged)
