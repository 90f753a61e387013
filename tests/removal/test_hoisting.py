"""Gathers in front of element-wise work: it is done for the selected channels only, and stays exact."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pdp_export.removal import remove_channels
from pdp_export.removal.costs import LayerWork, Macs
from tests.removal.networks import randomised

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Dense(nn.Module):
    """A stream that two layers read, each behind its own BatchNorm and activation."""

    def __init__(self, activation: nn.Module, shared: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.readers = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1)])
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.activation, self.shared = activation, shared

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        first = self.activation(self.norms[0](x) * self.scale)
        second = self.activation(self.norms[1](x))
        outputs = self.readers[0](first), self.readers[1](second)
        return (*outputs, first.mean((1, 2, 3))) if self.shared else outputs


def narrow(shared: bool = False, activation: nn.Module | None = None) -> dict[str, tuple[int, ...]]:
    model = randomised(Dense(activation or nn.ReLU(), shared))
    model.readers[0].weight.data[:, [0, 1, 2]] = 0
    model.readers[1].weight.data[:, [3, 4]] = 0
    before = model.eval()(X)
    result = remove_channels(model, (X,), dynamic={0: {0: "batch"}}, objective="macs")
    for old, new in zip(before, result.module(X), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)
    return {name: tuple(tensor.shape) for name, tensor in result.program.state_dict.items()}


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.Hardtanh()])
def test_norm_before_a_select_works_on_what_is_selected(activation: nn.Module) -> None:
    """A densely connected network normalised all channels of the stream for each reader, and threw half away."""
    shapes = narrow(activation=activation)
    assert shapes["readers.0.weight"][1] == shapes["norms.0.weight"][0] == shapes["scale"][0] == 5
    assert shapes["readers.1.weight"][1] == shapes["norms.1.weight"][0] == 6


def test_norm_that_something_else_reads_keeps_its_channels() -> None:
    """The other reader wants what the select leaves out."""
    shapes = narrow(shared=True)
    assert shapes["readers.0.weight"][1] == 5
    assert shapes["scale"][0] == 8
    assert shapes["norms.1.weight"][0] == 6


def test_work_in_front_of_a_select_counts() -> None:
    """A plan that did not see what a select saves there kept all channels."""

    class Recorder(Macs):
        def costs(self, options: Sequence[LayerWork]) -> list[float]:
            seen.append((options[0].available, options[0].before))
            return super().costs(options)

    seen: list[tuple[int, tuple[str, ...]]] = []
    model = randomised(Dense(nn.ReLU()))
    model.readers[0].weight.data[:, [0, 1, 2]] = 0
    model.readers[1].weight.data[:, [3, 4]] = 0
    remove_channels(model, (X,), costs={"recorded": Recorder()})
    assert seen == [(8, ("norm", "norm", "unary")), (8, ("norm", "unary"))]


def test_broadcasting_is_not_crossed() -> None:
    """One channel times eight numbers: a gather ahead of the product read out of bounds."""

    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.reader = nn.Conv2d(3, 1, 1), nn.Conv2d(8, 4, 1)
            self.scale = nn.Parameter(torch.randn(8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.reader((self.stem(x) * self.scale).relu())

    model = Spread()
    model.reader.weight.data[:, :3] = 0
    result = remove_channels(model, (X,), objective="macs")
    torch.testing.assert_close(result.module(X), model(X), rtol=1e-4, atol=1e-5)
