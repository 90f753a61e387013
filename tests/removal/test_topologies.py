"""One small network per topology; each docstring names what goes wrong when its rule is missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.removal.networks import Check, kill, randomised


def conv(inputs: int, outputs: int, bias: bool = False, kernel: int = 3, padding: int = 1, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=bias, **options)


class Arithmetic(nn.Module):
    def __init__(self, padding: int) -> None:
        super().__init__()
        self.first, self.last = conv(3, 8), conv(8, 4, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(3 * (self.first(x) + 1))


def test_constant_after_arithmetic_folds_without_padding(check: Check) -> None:
    """Y = 3 (x + 1) turns a dead filter into the constant 3; treating it as zero changes the function."""
    model = Arithmetic(padding=0)
    kill(model.first, 2, 5)
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["first.weight"].shape[0] == 6
    assert "last.bias" in removed.program.state_dict


def test_new_bias_of_a_layer_that_loses_filters(check: Check) -> None:
    """The bias made for a constant keeps the old width when its layer is pruned as well."""
    model = nn.Sequential(Arithmetic(padding=0), nn.Conv2d(4, 3, 1))
    kill(model[0].first, 2)
    model[1].weight.data[:, 1] = 0
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["0.last.bias"].shape == (3,)


def test_constant_before_padding_is_kept(check: Check) -> None:
    """A constant folded into the bias is wrong at the border of a padded convolution."""
    model = Arithmetic(padding=1)
    kill(model.first, 2)
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["first.weight"].shape[0] == 8
    assert "constant 3 into the padded layer last" in removed.report.layers[0].reason
    assert removed.report.layers[0].kept == 1
    assert removed.report.nothing_removed
    assert [skip.layer for skip in removed.report.skipped] == ["first"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [5, 9])
def test_two_convolutions(check: Check, bias: bool, size: int) -> None:
    """The shortest chain; a bias that is left alive keeps its channel from being zero."""
    model = nn.Sequential(conv(3, 8, bias), conv(8, 4, bias))
    kill(model[0], 0, 7)
    removed = check(model, torch.randn(2, 3, size, size))
    assert removed.program.state_dict["1.weight"].shape == (4, 6, 3, 3)


def test_unread_columns(check: Check) -> None:
    """A channel that nobody reads stays because its filter is not zero."""
    model = nn.Sequential(conv(3, 8, True), nn.Sigmoid(), conv(8, 4))
    model[2].weight.data[:, [1, 2]] = 0
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["0.weight"].shape[0] == 6
    assert removed.program.state_dict["0.bias"].shape[0] == 6


def test_flatten_to_linear(check: Check) -> None:
    """Each channel is H x W neighbouring columns of the linear layer, not one."""
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.Flatten(), nn.Linear(6 * 16, 5))
    kill(model[0], 1)
    kill(model[2], 0, 3)
    removed = check(model, torch.randn(2, 3, 4, 4), batch=True)
    assert removed.program.state_dict["4.weight"].shape == (5, 4 * 16)


class Reshaped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv(3, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).view(x.shape[0], 8, -1).transpose(1, 2)  # (N, HW, C)
        return self.head(tokens)


def test_reshape_with_a_channel_count(check: Check) -> None:
    """The count 8 is a constant in the graph and must shrink with the weights."""
    model = Reshaped()
    kill(model.conv, 4)
    assert check(model, torch.randn(2, 3, 4, 4), batch=True).program.state_dict["head.weight"].shape == (5, 7)


@pytest.mark.parametrize("widths", [(8, 8, 8), (5, 8, 10)])
def test_batch_norm_in_the_middle(check: Check, widths: tuple[int, int, int]) -> None:
    """BatchNorm parameters and statistics that keep the old width."""
    first, second, third = widths
    model = nn.Sequential(conv(3, first), conv(first, second), nn.BatchNorm2d(second), nn.ReLU(), conv(second, third))
    randomised(model)
    kill(model[0], 0)
    kill(model[1], 2, 3, norm=model[2])
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["4.weight"].shape[1] == second - 2
    assert "2.weight" not in removed.program.state_dict


def test_batch_norm_shift_decides(check: Check) -> None:
    """A dead filter under a BatchNorm shift emits a constant: zero after ReLU if negative, kept if positive."""
    model = randomised(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4)))
    model[0].weight.data[[1, 2]] = 0
    model[1].running_mean.data.zero_()
    model[1].bias.data[1], model[1].bias.data[2] = -0.5, 0.5
    removed = check(model, torch.randn(2, 3, 8, 8), batch=True)
    assert removed.program.state_dict["0.weight"].shape[0] == 7
    assert "constant 0.5" in removed.report.layers[0].reason


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.norm, self.last = conv(3, 8), conv(3, 8), nn.BatchNorm2d(8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.left(x) + self.right(x)).relu())


def test_batch_norm_after_an_addition(check: Check) -> None:
    """A BatchNorm that cannot be folded must shrink with its channels."""
    model = randomised(PreActivation())
    for layer in (model.left, model.right):
        kill(layer, 0, 1, 2)
    kill(model.norm, 0, 1)
    model.norm.bias.data[2] = -9.0
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["norm.running_mean"].shape == (5,)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(3, 8), conv(8, 8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.a(x) + self.b(x)))


def test_sum_of_two_branches(check: Check) -> None:
    """Only channels that both branches agree on may go."""
    model = Sum()
    kill(model.a, 0, 1, 2)
    kill(model.b, 1, 2, 3)
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["a.weight"].shape[0] == 6
    assert removed.report.layers[0].kept == 1


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 4), conv(3, 6), conv(10, 8), conv(8, 4)
        self.e = conv(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), self.b(x)], dim=1)
        return self.e(torch.cat([joined, self.c(joined)], 1)) + F.interpolate(
            self.d(self.c(joined))[:, :3], x.shape[2:]
        )


def test_chained_concatenation(check: Check) -> None:
    """Column offsets of the second part move when the first part shrinks."""
    model = Concat()
    kill(model.a, 1)
    kill(model.b, 0, 5)
    kill(model.c, 2)
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["e.weight"].shape[1] == 18 - 4


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8, True), conv(8, 4), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        return self.a(features) + self.b(features)


@pytest.mark.parametrize(("first", "second", "left"), [([0, 1], [0, 1], 6), ([0, 1], [1, 2], 7), ([0], [1], 8)])
def test_two_readers(check: Check, first: list[int], second: list[int], left: int) -> None:
    """A channel that one reader ignores and the other needs must stay."""
    model = TwoReaders()
    model.a.weight.data[:, first] = 0
    model.b.weight.data[:, second] = 0
    assert check(model, torch.randn(2, 3, 8, 8)).program.state_dict["stem.weight"].shape[0] == left


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.f, self.norm, self.last = conv(3, 4), conv(4, 4), nn.BatchNorm2d(8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.last(self.norm(torch.cat([self.f(y), y], 1)).relu())


def test_dense_block(check: Check) -> None:
    """cat(f(y), y): a channel of y is read twice, and the BatchNorm over both spans two producers."""
    model = randomised(Dense())
    kill(model.stem, 3)
    kill(model.f, 0)
    kill(model.norm, 0, 7)
    removed = check(model, torch.randn(2, 3, 8, 8), batch=True)
    assert removed.program.state_dict["norm.weight"].shape == (6,)
    assert removed.program.state_dict["last.weight"].shape[1] == 6


def test_transposed_convolutions(check: Check) -> None:
    """The weight is (C_in, C_out, k, k): axes are swapped."""
    model = nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, stride=2))
    model[0].weight.data[:, [1, 6]] = 0
    model[0].bias.data[[1, 6]] = 0
    model[2].weight.data[3] = 0
    assert check(model, torch.randn(2, 3, 4, 4)).program.state_dict["2.weight"].shape == (5, 4, 3, 3)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.side = conv(3, 4), conv(2, 4), conv(8, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        left, right = self.a(x), self.b(y)
        joined = self.c(torch.cat([left, right], 1))
        return {"main": joined, "more": (self.side(right.mean([2, 3])), y * 2)}


def test_several_inputs_and_outputs(check: Check) -> None:
    """An output inside a dictionary is still an output: its channels stay."""
    model = TwoInputs()
    kill(model.a, 0)
    kill(model.b, 3)
    kill(model.c, 1)
    removed = check(model, torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8), batch=True)
    assert removed.program.state_dict["c.weight"].shape == (4, 6, 3, 3)
    assert removed.program.state_dict["side.weight"].shape == (2, 3)
    reasons = {layer.layer: layer.reason for layer in removed.report.layers}
    assert "output" in reasons["c"]


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_in_the_middle(check: Check, multiplier: int) -> None:
    """A depthwise layer has one input per group: groups, rows and the multiplier must follow the producer."""
    depthwise = conv(8, 8 * multiplier, True, groups=8)
    model = nn.Sequential(
        conv(3, 8), depthwise, nn.BatchNorm2d(8 * multiplier), nn.Hardswish(), conv(8 * multiplier, 4)
    )
    randomised(model)
    kill(model[0], 2)
    kill(model[1], *range(2 * multiplier, 3 * multiplier), norm=model[2])
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["1.weight"].shape[0] == 7 * multiplier


def test_single_channel_convolution_is_not_depthwise(check: Check) -> None:
    """C_out = 1 or C_in = 1 mistaken for a depthwise layer."""
    model = nn.Sequential(conv(1, 6), nn.ReLU(), conv(6, 1), nn.ReLU(), conv(1, 6), nn.ReLU(), conv(6, 2))
    kill(model[0], 0)
    kill(model[4], 3)
    removed = check(model, torch.randn(2, 1, 8, 8))
    assert removed.program.state_dict["2.weight"].shape == (1, 5, 3, 3)
    assert removed.program.state_dict["6.weight"].shape == (2, 5, 3, 3)


def test_perceptron(check: Check) -> None:
    """Linear layers on (N, C) and on (N, L, C)."""
    for shape in ((2, 6), (2, 5, 6)):
        model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
        kill(model[0], 0, 1)
        kill(model[2], 7)
        removed = check(model, torch.randn(*shape))
        assert removed.program.state_dict["2.weight"].shape == (7, 6)


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.c = conv(3, 12), conv(4, 4), conv(8, 4), conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        first, second = y.split([4, 8], 1)
        return self.a(first) + self.b(second) + self.c(y[:, 3:6])


def test_split_and_slice(check: Check) -> None:
    """Sizes and bounds count channels, and a part may not become empty."""
    model = Split()
    kill(model.stem, 0, 1, 4, 11)
    removed = check(model, torch.randn(2, 3, 8, 8), batch=True)
    weights = removed.program.state_dict
    assert [weights[f"{name}.weight"].shape[1] for name in "abc"] == [2, 6, 2]


def test_split_part_that_is_dead_throughout(check: Check) -> None:
    """A part of zero channels would be an empty tensor; its reader goes with it."""
    model = Split()
    kill(model.stem, 0, 1, 2, 3)
    state = check(model, torch.randn(2, 3, 8, 8)).program.state_dict
    assert "a.weight" not in state
    assert state["b.weight"].shape[1] == 8


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite, self.last = conv(3, 8), nn.Linear(8, 4), nn.Linear(4, 8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        gate = torch.sigmoid(self.excite(self.squeeze(y.mean([2, 3])).relu()))
        return self.last(y * gate[:, :, None, None])


def test_squeeze_and_excite(check: Check) -> None:
    """The gate of a dead channel is sigmoid(b), never zero, and still the channel may go."""
    model = Gate()
    kill(model.stem, 1, 4)
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["excite.weight"].shape == (6, 4)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = conv(3, 8), conv(8, 4)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.unused = nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.stem(x) * self.scale)


def test_unwrapped_and_unused_parameters(check: Check) -> None:
    """A bare parameter multiplies the channels; another is in the module but in no operation."""
    model = Scaled()
    model.scale.data[2] = 0
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["scale"].shape == (7, 1, 1)
    assert "unused" not in removed.program.state_dict


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.map, self.last = conv(3, 8), conv(8, 1), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.last(y * torch.sigmoid(self.map(y)))


def test_one_channel_spread_over_all(check: Check) -> None:
    """A spatial attention map has one channel that multiplies all: not the same slot as theirs."""
    model = Attention()
    kill(model.stem, 0)
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["map.weight"].shape == (1, 7, 3, 3)


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = conv(3, 8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.softmax(self.stem(x), 1))


class LastAxis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.last = conv(3, 8), nn.LayerNorm(8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.stem(x).movedim(1, 3)).movedim(3, 1))


@pytest.mark.parametrize("model", [Unknown(), LastAxis()])
def test_operator_without_a_rule(check: Check, model: nn.Module) -> None:
    """Softmax over channels is changed by every channel: frozen with the operator's name, never guessed."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    kill(first, 0)
    removed = check(model, torch.randn(2, 3, 8, 8))
    reason = removed.report.layers[0].reason
    assert "has no rule" in reason or "normalises over the channels" in reason
    assert removed.report.nothing_removed


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.last = conv(3, 8), conv(8, 8, True), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(self.stem(x)).relu()))


def test_layer_called_twice(check: Check) -> None:
    """One weight, two places: its channels may go only where both agree."""
    model = Shared()
    kill(model.stem, 0, 1)
    kill(model.twice, 1, 2)
    removed = check(model, torch.randn(2, 3, 8, 8), batch=True)
    assert removed.program.state_dict["twice.weight"].shape == (7, 7, 3, 3)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))) + x @ self.first.weight.t() @ self.first.weight


def test_weight_also_read_by_another_operator(check: Check) -> None:
    """Slicing a weight that a product reads as a whole breaks the product."""
    model = Tied()
    kill(model.first, 0)
    removed = check(model, torch.randn(2, 6))
    assert removed.program.state_dict["first.weight"].shape == (8, 6)


def test_everything_dead_keeps_one_channel(check: Check) -> None:
    """A layer without channels is no layer."""
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 4, True))
    kill(model[2], *range(8))
    removed = check(model, torch.randn(2, 3, 8, 8))
    assert removed.program.state_dict["0.weight"].shape[0] == 1
    assert removed.program.state_dict["2.weight"].shape == (1, 1, 3, 3)


@pytest.mark.parametrize(("align", "left"), [(1, 9), (4, 12), (8, 16), (64, 16)])
def test_alignment(check: Check, align: int, left: int) -> None:
    """Widths are filled with dead channels, never beyond the original."""
    model = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 4))
    kill(model[0], *range(0, 14, 2))
    removed = check(model, torch.randn(2, 3, 8, 8), align=align)
    assert removed.program.state_dict["0.weight"].shape[0] == left
    assert removed.report.align == align


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(3, 8), nn.MaxPool2d(3, 2, padding=1), nn.ReflectionPad2d(1), nn.LeakyReLU(), conv(8, 8, padding=0),
            nn.ZeroPad2d(1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(2), conv(8, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).amax((2, 3))


def test_pooling_padding_and_resizing(check: Check) -> None:
    """They keep channels apart, and zeros zero."""
    model = Pooled()
    kill(model.layers[0], 0, 5)
    kill(model.layers[4], 1)
    removed = check(model, torch.randn(2, 3, 16, 16))
    assert removed.program.state_dict["layers.4.weight"].shape == (7, 6, 3, 3)
