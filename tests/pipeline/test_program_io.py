"""What `convert` and `validate` are given: inputs that do not fit, and models where programs are expected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pdp_export as pdp
from pdp_export.cli.validate import _inputs
from pdp_export.errors import DataError, UsageError
from pdp_export.graph.capture import capture
from pdp_export.pipeline.program_io import as_reference

X = torch.randn(2, 3, 8, 8)


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    return capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (X,))


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (2, 3, 16, 16), (2, 1, 8, 8), (3, 8, 8)])
def test_inputs_of_another_shape(program: torch.export.ExportedProgram, shape: tuple[int, ...]) -> None:
    """A guard of torch.export failed as an unexpected AssertionError."""
    with pytest.raises(DataError, match=r"takes shape \(2, 3, 8, 8\), the data has") as error:
        as_reference(program, torch.randn(shape), ["y"])
    assert "dynamic=" in str(error.value.hint)


def test_inputs_of_another_dtype(program: torch.export.ExportedProgram) -> None:
    """Doubles fail deep inside of torch."""
    with pytest.raises(DataError, match="takes float32, the data is float64"):
        as_reference(program, X.double(), ["y"])


def test_an_open_batch_takes_any_number() -> None:
    """Only what is fixed may be compared; a size beyond the range of an open one is refused in words too."""
    open_batch = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (X,), {0: {0: "batch"}})
    assert as_reference(open_batch, torch.randn(7, 3, 8, 8), ["y"])[1]["y"].shape == (7, 4, 6, 6)


def test_a_model_that_fails_on_the_inputs() -> None:
    """A module knows no shapes: its own error must name the inputs."""

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, torch.ones(1, 3, 1, 1))

    with pytest.raises(DataError, match=r"the reference does not run on these inputs: .*channels"):
        as_reference(Own().eval(), torch.randn(2, 1, 8, 8), ["y"])


def test_a_module_is_no_program(tmp_path: Path) -> None:
    """`remove_channels` takes modules, so one is given here too."""
    with pytest.raises(UsageError, match="expected a captured program, got Conv2d") as error:
        pdp.convert(nn.Conv2d(3, 4, 3), tmp_path / "m.onnx", target="onnx")  # type: ignore[arg-type]
    assert "remove_channels" in str(error.value.hint)


def test_arrays_are_taken_by_name(program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    """An array of another name was taken for the only input; two in another order would be mixed up."""
    (own,) = program.graph_signature.user_inputs
    for name in (str(own), "image"):
        np.savez(tmp_path / "x.npz", **{name: X.numpy()})
        assert torch.equal(_inputs(program, str(tmp_path / "x.npz"), ["image"])[0], X)
    np.savez(tmp_path / "x.npz", img=X.numpy())
    with pytest.raises(DataError, match=f"holds img, the inputs are {own} .*or image"):
        _inputs(program, str(tmp_path / "x.npz"), ["image"])
