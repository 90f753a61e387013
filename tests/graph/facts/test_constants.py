"""Constants per channel: zero, a number, or dependent on the input; never a wrong number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdp_export.graph.capture import capture
from pdp_export.graph.facts import channel_facts, grids
from pdp_export.graph.nodes import shape

NAN, INF = float("nan"), float("inf")


def constants_before_output(model: nn.Module, *size: int) -> list[float]:
    module = capture(model, (torch.randn(size),)).module(check_guards=False)
    last = [node for node in module.graph.nodes if node.op == "call_function"][-1]
    grid = channel_facts(module).constant(last)
    return [round(float(number), 6) + 0.0 for number in grids.line(grid, 1, shape(last)[1])]


class Net(nn.Module):
    def __init__(self, tail: nn.Module, bias: tuple[float, ...] = (0.0, 2.0, 0.0)) -> None:
        super().__init__()
        self.conv, self.tail = nn.Conv2d(1, 3, 3), tail
        self.conv.weight.data[:2] = 0
        self.conv.bias.data = torch.tensor(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.conv(x))


class Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator]


class Scale(nn.Module):
    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.register_buffer("factors", torch.tensor(factors)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (nn.Identity(), [0, 2, NAN]),
        (nn.Sigmoid(), [0.5, 0.880797, NAN]),
        (Function(lambda x: 3 * (x - 1)), [-3, 3, NAN]),
        (Function(lambda x: 1 / x), [INF, 0.5, NAN]),
        (Function(lambda x: x * x.mean((2, 3), keepdim=True)), [0, 4, NAN]),
        (Scale([float("inf"), 0.0, 0.0]), [INF, 0, 0]),
        (Function(lambda x: x + x.flip(3)), [0, 4, NAN]),
        (Function(lambda x: torch.cat([x, -x], 1)), [0, 2, NAN, 0, -2, NAN]),
        (Function(lambda x: torch.cat([x, x + 1], 2)), [NAN, NAN, NAN]),
        (nn.MaxPool2d(2), [0, 2, NAN]),
        (nn.AvgPool2d(3, padding=1), [0, NAN, NAN]),
        (nn.ZeroPad2d(1), [0, NAN, NAN]),
        (nn.ConstantPad2d(1, 2.0), [NAN, 2, NAN]),
        (nn.ReplicationPad2d(1), [0, 2, NAN]),
        (Function(lambda x: x.sum((2, 3))), [0, 72, NAN]),
        (Function(lambda x: x.softmax(1)), [NAN, NAN, NAN]),
        (Function(lambda x: x[:, :2].softmax(1)), [0.119203, 0.880797]),
        (Function(lambda x: F.group_norm(x[:, :2], 1)), [-0.999995, 0.999995]),
        (Function(lambda x: F.group_norm(x, 1)), [NAN, NAN, NAN]),
        (Function(lambda x: F.layer_norm(x[:, :2].movedim(1, 3), (2,)).movedim(3, 1)), [-0.999995, 0.999995]),
        (Function(lambda x: x.flatten(1)[:, 30:40]), [0, 0, 0, 0, 0, 0, 2, 2, 2, 2]),
    ],
)
def test_operators(tail: nn.Module, expected: list[float]) -> None:
    """Each family on a zero channel, a constant 2 and a living one."""
    np.testing.assert_equal(constants_before_output(Net(tail), 2, 1, 8, 8), expected)


def test_layers_take_constants_only_without_padding() -> None:
    """A padded layer turns a constant into something else at its border; zero stays zero."""
    for padding, expected in ((0, [NAN, 18.5, 0.5]), (1, [NAN, NAN, 0.5])):
        tail = nn.Conv2d(3, 3, 3, padding=padding)
        tail.weight.data = torch.zeros(3, 3, 3, 3)
        tail.weight.data[0] = 1.0
        tail.weight.data[1, 1] = 1.0
        tail.weight.data[2, 0] = 1.0
        tail.bias.data = torch.tensor([0.5, 0.5, 0.5])
        np.testing.assert_equal(constants_before_output(Net(tail), 2, 1, 8, 8), expected)


def test_batch_norm_with_zero_weight_emits_its_bias() -> None:
    """The living channel dies in a BatchNorm whose weight is zero."""
    tail = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))
    tail[1].weight.data = torch.tensor([1.0, 1.0, 0.0])
    tail[1].bias.data = torch.tensor([0.25, 0.0, 0.75])
    tail[1].running_mean = torch.tensor([0.0, 2.0, 1.0])
    np.testing.assert_equal(constants_before_output(Net(tail), 2, 1, 8, 8), [0.25, 0, 0.75])
