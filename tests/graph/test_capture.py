"""Capture: one dialect, dynamic sizes, the user's own line in every error, and nothing changed on the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pdp_export.errors import CaptureError
from pdp_export.graph.capture import capture, dynamic_axes


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the user's line
            return x
        return -x


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, 5) * 2


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor, *more: Tensor) -> dict[str, Tensor]:
        return {"image": self.drop(self.norm(self.conv(x)).relu_()), "sum": sum(more)}  # type: ignore[dict-item]


def test_data_dependent_branch_names_the_users_line() -> None:
    """Torch's message shows its own internals; the user needs the line with the `if`."""
    with pytest.raises(CaptureError) as error:
        capture(Branching(), (torch.randn(4, 5),))
    assert error.value.where is not None
    assert error.value.where.endswith("if x.sum() > 0:  # the user's line")
    assert error.value.where.startswith("tests/graph/test_capture.py:") or error.value.where.startswith("graph/")


def test_wrong_input_shape_names_the_users_line() -> None:
    """A shape mismatch is reported inside torch.nn instead of where the user calls it."""
    with pytest.raises(CaptureError, match="reduction dim") as error:
        capture(nn.Sequential(nn.Linear(5, 2), Branching()), (torch.randn(4, 6),))
    assert "site-packages" not in str(error.value)


def test_fixed_size_that_should_be_dynamic() -> None:
    """The reason is hidden behind 'Constraints violated' and an environment variable."""
    with pytest.raises(CaptureError, match="specialized it to be a constant") as error:
        capture(Fixed(), (torch.randn(4, 5),), {0: {0: "batch"}})
    assert error.value.hint is not None
    assert "fixed" in error.value.hint


@pytest.mark.parametrize(
    ("inputs", "dynamic"), [(([1.0],), None), ((torch.ones(2, 2),), {1: {0: "n"}}), ((torch.ones(2),), {0: {1: "n"}})]
)
def test_impossible_requests(inputs: tuple[Tensor, ...], dynamic: dict[int, dict[int, str]] | None) -> None:
    """Wrong types and axes that do not exist end in a traceback of torch."""
    with pytest.raises(CaptureError):
        capture(nn.Identity(), inputs, dynamic)


def test_failure_is_silent_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """Torch prints the half-captured graph and a log of internals when it gives up."""
    with pytest.raises(CaptureError):
        capture(Branching(), (torch.randn(4, 5),))
    assert capfd.readouterr() == ("", "")


def test_batch_of_one_stays_dynamic() -> None:
    """Torch specialises size 1, and the program then refuses every other batch."""
    program = capture(Mixed(), (torch.randn(1, 3, 8, 8), torch.randn(1, 2)), {0: {0: "n"}, 1: {0: "n"}})
    for batch in (1, 2, 5):
        outputs = program.module()(torch.randn(batch, 3, 8, 8), torch.randn(batch, 2))
        assert outputs["image"].shape == (batch, 4, 6, 6)
    axes = dynamic_axes(program)
    assert axes[0].keys() == axes[1].keys() == {0}
    assert axes[0][0] == axes[1][0]


def test_dialect_is_functional_and_whole() -> None:
    """In-place variants, dropout or a training BatchNorm would reach the analysis."""
    program = capture(Mixed(), (torch.randn(2, 3, 8, 8), torch.randn(2, 2)))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names >= {"aten.conv2d.default", "aten._native_batch_norm_legit_no_training.default", "aten.relu.default"}
    assert not any("dropout" in name or name.split(".")[1].endswith("_") for name in names if name.startswith("aten"))


def test_modes_and_weights_are_left_alone() -> None:
    """A frozen BatchNorm in a training model comes back in training mode, or its statistics move."""
    model = Mixed().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, (torch.randn(2, 3, 8, 8), torch.randn(2, 2)))
    assert (model.training, model.conv.training, model.norm.training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(CaptureError):
        capture(nn.Sequential(model, Branching()), (torch.randn(2, 3, 8, 8),))
    assert (model.training, model.norm.training) == (True, False)


@pytest.mark.parametrize("layer", [nn.LSTM(4, 6, batch_first=True), nn.GRU(4, 6, bidirectional=True)])
def test_recurrent_layers_are_captured_without_warnings(layer: nn.Module) -> None:
    """Torch warns about its own list of weights; with warnings as errors these layers could not be captured."""
    x = torch.randn(2, 3, 4)
    assert torch.allclose(capture(layer, (x,)).module()(x)[0], layer(x)[0], atol=1e-6)
