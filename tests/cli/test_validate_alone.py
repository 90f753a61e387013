"""``pdp-export validate`` for packages that pdp-export did not write, and the Mac kit from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pdp_export.graph.archive import save_program
from tests.converters.coreml_networks import convert

X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package, the program that it was made from, inputs and the outputs of PyTorch."""
    folder = tmp_path_factory.mktemp("foreign")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()
    program = convert(folder / "theirs.mlpackage", model, torch.from_numpy(X))
    save_program(program, folder / "model.pt2")
    np.savez(folder / "x.npz", x0=X)
    with torch.no_grad():
        np.savez(folder / "y.npz", y=model(torch.from_numpy(X)).numpy())
    np.savez(folder / "wrong.npz", y=np.ones((1, 5), np.float32))
    return folder / "theirs.mlpackage"


def test_a_foreign_package_is_compared_with_given_outputs(package: Path, pdp):
    """Pins a file that can only be checked by who has its PyTorch program, and wrong outputs that pass."""
    folder = package.parent
    given = ("validate", package, "--inputs", folder / "x.npz", "--expected")
    ended = pdp(*given, folder / "y.npz", "--save-outputs", folder / "got.npz", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["verdict"] == "PASS"
    assert "interpreter" in found["run_by"] or "macOS" in found["run_by"]
    assert np.load(folder / "got.npz")["y"].shape == (1, 5)
    assert pdp(*given, folder / "wrong.npz").code == 5


def test_without_anything_to_compare_the_outputs_are_told(package: Path, pdp):
    """Pins a pass where nothing was compared, and inputs of other names taken for those of the file."""
    ended = pdp("validate", package)
    assert ended.code == 0
    assert "NOT RUN" in ended.out
    assert "y float32[1, 5]" in ended.out
    wrong = pdp("validate", package, "--inputs", package.parent / "y.npz")
    assert wrong.code == 2
    assert "x0 is not given" in wrong.err


def test_the_mac_kit_is_written_once(package: Path, pdp, tmp_path: Path):
    """Pins a kit without its expected outputs, one over an older kit, and one for a file without a program."""
    command = ("validate", package, "--emit-mac-kit", tmp_path / "kit")
    assert "--reference" in pdp(*command).err
    command = (*command, "--reference", package.parent / "model.pt2", "--inputs", package.parent / "x.npz")
    ended = pdp(*command)
    assert ended.code == 0, ended.err
    assert np.array_equal(np.load(tmp_path / "kit/expected.npz")["y"], np.load(package.parent / "y.npz")["y"])
    assert pdp(*command).code == 2
