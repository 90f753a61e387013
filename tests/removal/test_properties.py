"""Random masks on small networks: whatever is zero, the function stays and nothing crashes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram

from pdp_export.graph.capture import capture
from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import Macs
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.simplification import prepare
from tests.removal.networks import randomised


def block(inputs: int, outputs: int, groups: int = 1, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=padding, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6()
    )


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(block(2, 4), block(4, 5, padding=0), block(5, 3, padding=0))
        self.head = nn.Linear(3 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).flatten(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.c = block(2, 4), block(4, 4), block(4, 4), block(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.a(x)
        return self.c(x + self.b(x).tanh()).mean((2, 3))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.deep, self.project, self.last = block(2, 4), block(4, 4, groups=4), block(4, 3), block(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x)
        return self.last(torch.cat([self.project(self.deep(y)), y], 1))


NETS = {"chain": Chain, "residual": Residual, "depthwise": Depthwise}


@cache
def captured(name: str) -> ExportedProgram:
    return capture(randomised(NETS[name]()), (torch.randn(2, 2, 6, 6),))


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_random_masks(name: str, data: st.DataObject) -> None:
    """Filters, columns and BatchNorm parameters zeroed at random; shifts may be negative, zero or positive."""
    program = captured(name)
    original = {key: value.clone() for key, value in program.state_dict.items()}
    try:
        for key, value in program.state_dict.items():
            if value.is_floating_point() and value.dim() > 0 and "running" not in key:
                axis = data.draw(st.sampled_from([0, 1])) if value.dim() > 1 and value.shape[1] > 1 else 0
                dead = data.draw(st.lists(st.integers(0, value.shape[axis] - 1), unique=True))
                value.data.index_fill_(axis, torch.tensor(dead, dtype=torch.int64), 0.0)
        align = data.draw(st.sampled_from([1, 1, 2, 4]))
        edited, report = remove_from(prepare(program, None, None), (align,), Macs(), stage="test")
    finally:
        for key, value in original.items():
            program.state_dict[key].data.copy_(value)
    assert report.proof_error <= LIMIT
    for layer in report.layers:
        assert layer.kept == 0 or layer.reason
        if layer.shape_after[0] == 0:
            assert layer.weight not in dict(edited.named_parameters())  # its branch is one constant
            continue
        assert all(after >= 1 for after in layer.shape_after)
        assert tuple(edited.get_parameter(layer.weight).shape) == layer.shape_after
