"""The fold of BatchNorm: exact, proven, and refused by name where it cannot be."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pdp_export.errors import ProofError, RemovalError
from pdp_export.graph.archive import load_program, save_program
from pdp_export.graph.capture import capture
from pdp_export.removal import simplification, simplify
from sample_models.resnet import resnet_cifar
from tests.removal.networks import kill, randomised


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)), (2, 3, 8, 8)),
        (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, affine=False)), (2, 4, 8, 8)),
        (nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)), (2, 3, 8)),
        (nn.Sequential(nn.Conv3d(3, 6, 2), nn.BatchNorm3d(6)), (2, 3, 4, 4, 4)),
        (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
        (nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6)), (2, 3)),
    ],
)
def test_every_layer_kind_folds(model: nn.Module, shape: tuple[int, ...]) -> None:
    """The scale belongs to another axis for transposed and grouped layers."""
    if model[1].affine:
        randomised(model)
    else:
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    inputs = (torch.randn(shape),)
    program = simplify(model.train(), inputs)
    assert not any("norm" in name for name in operators(program))
    assert model.training
    expected = model.eval()(*inputs)
    assert torch.allclose(program.module()(*inputs), expected, atol=1e-5, rtol=1e-5)
    assert set(program.state_dict) == {"0.weight", "0.bias"}


def test_zeros_stay_exact_and_positive() -> None:
    """A negative BatchNorm scale turns +0.0 into -0.0, which encoders would store as a value."""
    model = randomised(nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)))
    model[1].weight.data.neg_()
    mask = torch.rand(6, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.7
    model[0].weight.data[mask] = -0.0
    weight = simplify(model, (torch.randn(1, 3, 8, 8),)).state_dict["0.weight"]
    assert torch.equal(weight == 0, mask)
    assert not (weight.signbit() & (weight == 0)).any()


class NotFoldable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.read, self.added, self.a, self.b = (nn.BatchNorm2d(4) for _ in range(4))
        self.tokens, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = self.added(self.read(y) + y)
        y = self.b(self.twice(self.a(self.twice(y))))
        return self.norm(self.tokens(y.flatten(2).transpose(1, 2)[:, :8]))


def test_what_does_not_fold_stays() -> None:
    """A layer read twice, a shared weight, a sum, and a linear layer whose last axis is not the normalised one."""
    model = randomised(NotFoldable())
    program = simplify(model, (torch.randn(2, 3, 4, 4),))
    norms = [node for node in program.graph.nodes if "batch_norm" in node.name]
    assert len(norms) == 5
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(program.module()(x), model.eval()(x), atol=1e-4, rtol=1e-4)


def test_a_program_goes_in_as_well(tmp_path: Path) -> None:
    """A saved program brings its own inputs and dynamic sizes."""
    program = capture(randomised(resnet_cifar(depth=8)), (torch.randn(2, 3, 16, 16),), {0: {0: "batch"}})
    save_program(program, tmp_path / "net.pt2")
    simple = simplify(load_program(tmp_path / "net.pt2"))
    save_program(simple, tmp_path / "simple.pt2")
    again = load_program(tmp_path / "simple.pt2")
    x = torch.randn(5, 3, 16, 16)
    assert torch.allclose(again.module()(x), program.module()(x), atol=1e-4, rtol=1e-4)
    assert "features.0.weight" in again.state_dict


class Baked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        table = torch.arange(4, dtype=torch.float32) / 3
        return torch.cat([x, torch.zeros(x.shape[0], 2)], 1) @ torch.ones(6, 4) + table.half().float()


def test_constants_baked_in_at_capture() -> None:
    """A program that creates float32 tensors itself cannot run in double unless they are widened too."""
    x = torch.randn(3, 4)
    program = simplify(Baked(), (x,), {0: {0: "batch"}})
    assert torch.allclose(program.module()(x), Baked()(x), atol=1e-3)


def test_nan_is_refused_by_name() -> None:
    """0 x NaN is not 0: dropping a column beside it would change the function."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[1].weight.data[0, 1] = float("nan")
    with pytest.raises(RemovalError) as error:
        simplify(model, (torch.randn(2, 3),))
    assert error.value.where == "1.weight"


def test_wrong_fold_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that never fails proves nothing."""
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    fold = simplification.fold_batch_norms

    def wrong(module: torch.fx.GraphModule) -> dict[str, str]:
        moved = fold(module)
        module.get_parameter("0.weight").data[1, 0, 0, 0] += 1e-9
        return moved

    monkeypatch.setattr(simplification, "fold_batch_norms", wrong)
    with pytest.raises(ProofError, match="folding BatchNorm") as error:
        simplify(model, (torch.randn(2, 3, 8, 8),))
    assert error.value.where == "conv2d (aten.conv2d in 0)"


def test_dense_model_keeps_its_weights() -> None:
    """Without BatchNorm nothing may change, not a bit."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    kill(model[0], 1)
    before = copy.deepcopy(model.state_dict())
    program = simplify(model, (torch.randn(2, 3, 8, 8),))
    assert program.state_dict.keys() == before.keys()
    assert all(torch.equal(program.state_dict[name], before[name]) for name in before)
