"""The files of a Core ML package: the same bytes every time, and nothing that does not belong there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pdp_export import files
from pdp_export.runtimes import coreml_package
from tests.converters.coreml_networks import convert, pruned


def test_metadata_and_nothing_of_this_machine_is_in_the_package(tmp_path: Path):
    """Pins lost preprocessing, and the ExecuTorch table that coremltools leaves behind."""
    metadata = {"mean": "0.5", "labels": '["a", "b"]'}
    convert(tmp_path / "p", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), metadata=metadata)
    facts = coreml_package.describe(tmp_path / "p")
    assert {key: facts.metadata[key] for key in metadata} == metadata
    names = {item.relative_to(tmp_path / "p").as_posix() for item in files.members(tmp_path / "p")}
    data = "Data/com.apple.CoreML"
    assert names == {"Manifest.json", f"{data}/model.mlmodel", f"{data}/weights/weight.bin"}
    for item in files.members(tmp_path / "p"):
        assert str(Path.cwd()).encode() not in item.read_bytes()
        assert item.stat().st_mode & 0o044 == 0o044


def test_any_name_is_written_and_an_older_package_replaced(tmp_path: Path):
    """Pins coremltools' rule that a package must end in .mlpackage: the pipeline writes to a temporary name."""
    path = tmp_path / ".net.mlpackage.partial"
    (path / "Data").mkdir(parents=True)
    (path / "Data" / "old").write_text("old")
    convert(path, nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    assert not (path / "Data" / "old").exists()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_the_same_program_gives_the_same_bytes(tmp_path: Path):
    """Pins random identifiers, the date of the day and map order in the package."""
    model = pruned(nn.Conv2d(16, 32, 3), 0.8)
    for name in ("a", "b"):
        convert(tmp_path / name, model, torch.zeros(1, 16, 8, 8), metadata={str(i): "x" for i in range(9)})
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(tmp_path: Path):
    """Pins an order that depends on the hash seed of the process."""
    code = (
        "import sys, torch; from pathlib import Path; from torch import nn;"
        "from pdp_export.converters import coreml_export as c; from pdp_export.graph.capture import capture;"
        "from pdp_export.targets import ConvertRequest; from pdp_export.results import TensorSpec;"
        "torch.manual_seed(0); m = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3)).eval();"
        "r = ConvertRequest(inputs=(TensorSpec(name='x', shape=(1, 3, 8, 8)),), outputs=('y',), "
        "metadata={'a': 'b', 'c': 'd'});"
        "c.convert(capture(m, (torch.zeros(1, 3, 8, 8),)), Path(sys.argv[1]), r)"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment)
    assert files.sha256(tmp_path / "1") == files.sha256(tmp_path / "2")
