"""What cannot be removed from: refused, naming the layer and the reason, or handled exactly."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdp_export.errors import CaptureError, PdpExportError, RemovalError, UsageError
from pdp_export.graph.capture import capture
from pdp_export.removal import Removed, remove_channels, simplification
from tests.removal.networks import Check, kill, randomised
from tests.removal.test_hard_cases import Net

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGE = {0: {0: "batch", 2: "height", 3: "width"}}


def chain() -> nn.Sequential:
    """Two convolutions and a BatchNorm, with filter 2 dead."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3))
    kill(model[0], 2)
    return randomised(model)


def reasons(removed: Removed) -> dict[str, str]:
    return {layer.layer: layer.reason for layer in removed.report.layers}


def test_branch_on_data() -> None:
    """Only a run knows which way forward() goes; the message quotes the line."""

    def forward(self: Net, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y * 2 if y.sum() > 0 else y)

    with pytest.raises(CaptureError, match="decides by the values of a tensor") as error:
        remove_channels(Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 2)), (torch.randn(2, 4),))
    assert error.value.where is not None
    assert "if y.sum() > 0" in error.value.where


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("0.weight", torch.nan, "NaN or infinite"),
        ("0.bias", torch.inf, "NaN or infinite"),
        ("1.weight", torch.nan, "NaN or infinite"),
        ("1.running_mean", -torch.inf, "NaN or infinite"),
        ("1.running_var", torch.inf, "NaN or infinite"),
        ("1.running_var", -1.0, "not positive"),
        ("3.weight", torch.inf, "NaN or infinite"),
    ],
)
def test_weights_and_statistics_that_are_not_finite(name: str, value: float, told: str) -> None:
    """0 x Inf is not 0: neither a dead filter nor a column beside it may go, and a BatchNorm may not be folded."""
    model = chain()
    model.state_dict()[name].flatten()[2] = value
    with pytest.raises(RemovalError, match=told) as error:
        remove_channels(model, (X,))
    assert error.value.where == name


INFINITE: list[tuple[Callable[[Net, Tensor], Tensor], str]] = [
    (lambda self, x: self.b(self.a(x) * self.scale), "b"),
    (lambda self, x: self.b(1 / self.a(x)), "b"),
    (lambda self, x: self.b(self.a(x).log()), "b"),
]


@pytest.mark.parametrize(("forward", "reader"), INFINITE, ids=["buffer", "reciprocal", "logarithm"])
@pytest.mark.parametrize("layer", ["convolution", "linear"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_infinity_in_a_column_that_would_be_dropped(
    forward: Callable[[Net, Tensor], Tensor], reader: str, layer: str, value: float
) -> None:
    """A zero column meets a channel that is infinite: the result is NaN, and without the column it would not be."""
    flat = layer == "linear"
    a, b = (nn.Linear(3, 6), nn.Linear(6, 2)) if flat else (nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 3, padding=1))
    net = Net(forward, a=a, b=b)
    scale = torch.ones(6) if flat else torch.ones(6, 1, 1)
    scale[1] = value
    net.register_buffer("scale", scale)
    kill(a, 1)
    b.weight.data[:, 1] = 0
    x = torch.randn(4, 3) if flat else X
    removed = remove_channels(net, (x,), objective="macs")
    expected, result = net(x), removed.module(x)
    assert torch.equal(expected.isnan(), result.isnan())
    assert expected.isnan().any()
    assert reader in reasons(removed)["a"]


def test_infinite_factor_of_a_dead_product() -> None:
    """Zero silences what it is multiplied with, but not infinity."""
    net = Net(
        lambda self, x: self.c(self.a(x) * (self.b(x) * self.scale)),
        a=nn.Linear(3, 6), b=nn.Linear(3, 6), c=nn.Linear(6, 2),
    )  # fmt: skip
    net.register_buffer("scale", torch.tensor([1.0, torch.inf, 1, 1, 1, 1]))
    kill(net.a, 1)
    x = torch.randn(4, 3)
    result = remove_channels(net, (x,), objective="macs").module(x)
    assert torch.equal(result.isnan(), net(x).isnan())
    assert result.isnan().any()


class Repeated(nn.Module):
    """One layer called twice on what another makes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.twice, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(self.a(x)).relu()))


def test_shared_weights_that_disagree(check: Check) -> None:
    """The first call could lose channels 0 and 1, the second 1 and 2: only 1 goes, the others say who needs them."""
    model = Repeated()
    kill(model.a, 0, 1)
    kill(model.twice, 1, 2)
    removed = check(model, torch.randn(2, 6))
    assert removed.program.state_dict["twice.weight"].shape == (7, 7)
    assert all("reads it" in reasons(removed)[name] for name in ("a", "twice"))


def test_weight_that_is_also_read_transposed(check: Check) -> None:
    """Sliced for the one reading, it would not fit the other."""
    net = Net(
        lambda self, x: F.linear(F.linear(x, self.table).relu(), self.table.t()), table=nn.Parameter(torch.randn(8, 6))
    )
    net.table.data[[0, 1]] = 0
    removed = check(net, torch.randn(2, 6))
    assert "has a weight that the program computes" in removed.report.nothing_removed


def test_output_that_depends_on_a_constant(check: Check) -> None:
    """A dead filter emits sigmoid(b), and the largest channel is an output."""
    net = Net(
        lambda self, x: (self.b(self.a(x).sigmoid()), self.a(x).sigmoid().amax(1)),
        a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    net.a.weight.data[1] = 0
    net.a.bias.data[1] = 3.0
    removed = check(net, X)
    assert "aten.amax" in reasons(removed)["a"]
    assert removed.program.state_dict["a.weight"].shape[0] == 6


@pytest.mark.parametrize("dead", [[0], [3], [6], [0, 3, 6]])
@pytest.mark.parametrize("biases", [False, True])
def test_everything_dead(check: Check, dead: list[int], biases: bool) -> None:
    """A layer, or the network, is one constant: it still has that value for every batch, and says what stays."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Identity(), nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )  # fmt: skip
    for index in dead:
        model[index].weight.data.zero_()
        model[index].bias.data *= biases
    removed = check(model, X, batch=True)
    told = reasons(removed)
    assert removed.program.state_dict["0.weight"].shape[0] == 1
    assert all(told[str(index)] for index in dead)
    if 6 in dead:
        assert "output" in told["6"]


def test_branches_that_are_dead_as_a_whole(check: Check) -> None:
    """One constant takes the place of a branch; torch counts attention as random, so that it stayed, unread."""
    net = Net(
        lambda self, x: self.head(
            x + self.out(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))) + self.up(x).relu()
        ),
        q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(8, 8), up=nn.Linear(8, 8),
        head=nn.Linear(8, 2),
    )  # fmt: skip
    net.out.weight.data.zero_()
    kill(net.up, *range(8))
    removed = check(net, torch.randn(2, 5, 8))
    weights = [name for name in removed.program.state_dict if name.endswith("weight")]
    assert weights == ["head.weight"]
    assert {layer.layer for layer in removed.report.layers if layer.shape_after[0] == 0} == {"q", "k", "v", "out", "up"}


def test_all_columns_of_a_layer_are_zero(check: Check) -> None:
    """It emits its biases, whatever it reads: what only it reads goes down to one channel."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.Sigmoid(), nn.Conv2d(4, 2, 1)
    )
    model[2].weight.data.zero_()
    state = check(model, X).program.state_dict
    assert state["0.weight"].shape[0] == state["2.weight"].shape[0] == 1


def test_dynamic_axis_of_channels() -> None:
    """The weights fix it, dead or not."""
    with pytest.raises(CaptureError, match="constant \\(3\\)") as error:
        remove_channels(chain(), (X,), dynamic={0: {1: "channels"}})
    assert "fixed" in str(error.value.hint)


def test_dynamic_axis_merged_with_channels() -> None:
    """How many channels a row of the result has depends on the image: they stay."""
    net = Net(lambda self, x: self.a(x).flatten(1, 2).mean(2), a=nn.Conv2d(3, 6, 1))
    kill(net.a, 1)
    assert "aten.view" in remove_channels(net, (X,), dynamic=IMAGE).report.nothing_removed


def test_dynamic_size_that_the_result_cannot_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must be told as what removal did, not as a fault of the model."""
    calls: list[Any] = []

    def fails_the_second_time(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            raise CaptureError("You marked height as dynamic", where="net.py:3: return x")
        return capture(*arguments, **options)

    monkeypatch.setattr(simplification, "capture", fails_the_second_time)
    with pytest.raises(RemovalError, match=r"without its dead channels.*marked height as dynamic"):
        remove_channels(chain(), (X,), dynamic=IMAGE)


class Twice(nn.Module):
    """An image that must be even, since it is halved and doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (16, 2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        y = F.interpolate(self.b(F.max_pool2d(x, 2)).relu(), scale_factor=2.0)
        return self.c(torch.cat([x, y], 1))


def test_proof_at_two_batches_and_two_image_sizes() -> None:
    """A size that was baked in shows only at another one; an odd image would crash this network itself."""
    model = Twice()
    kill(model.a, 1, 2)
    model.b.weight.data[3] = 0
    removed = remove_channels(model, (X,), dynamic=IMAGE)
    assert removed.report.proof_cases == 4
    for size in ((1, 3, 8, 8), (3, 3, 10, 14)):
        x = torch.randn(size)
        assert torch.allclose(removed.module(x), model(x), atol=1e-5)


@pytest.mark.parametrize("align", [0, -4, "8", 2.5, None, [], [8, 0]])
def test_alignment_that_is_no_positive_number(align: Any) -> None:
    """align=0 divides by zero, and text or a fraction ended in a traceback."""
    with pytest.raises(UsageError, match=f"align is {re.escape(repr(align))}") as error:
        remove_channels(chain(), (X,), align=align)
    assert error.value.where == "align"


def test_alignment_beyond_every_width(check: Check) -> None:
    """Widths are filled, never beyond the original."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
    kill(model[0], 1, 2)
    removed = check(model, X, align=1000)
    assert removed.program.state_dict["0.weight"].shape[0] == 6
    assert "fills the width to a multiple of 1000" in removed.report.nothing_removed


@pytest.mark.parametrize("objective", ["latncy", "", None])
def test_unknown_objective(objective: Any) -> None:
    """A typo must not silently mean the default."""
    with pytest.raises(UsageError, match="unknown objective"):
        remove_channels(chain(), (X,), objective=objective)


WRONG: list[tuple[Any, str]] = [
    (None, "example inputs are needed"),
    ((), "0 example inputs do not fit"),
    ((X, X), "2 example inputs do not fit"),
    (X, "not a tuple"),
    ((X.numpy(),), "input 0 is a ndarray"),
    ((torch.randn(2, 4, 8, 8),), "expected input"),
    ((torch.full_like(X, torch.nan),), "holds NaN"),
]


@pytest.mark.parametrize(("inputs", "told"), WRONG)
def test_wrong_example_inputs(inputs: Any, told: str) -> None:
    """They ended in a traceback of torch, or in a proof that NaN equals NaN."""
    with pytest.raises(PdpExportError, match=told) as error:
        remove_channels(chain(), inputs)
    assert error.value.hint


WRONG_FOR_PROGRAM: list[tuple[Any, str]] = [
    ((), "takes 1 example inputs, 0 were given"),
    ((X, X), "takes 1 example inputs, 2 were given"),
    (X, "a Tensor was given"),
    ((X[:, :2],), r"is torch.float32 \(2, 2, 8, 8\)"),
    ((X.long(),), "is torch.int64"),
]


@pytest.mark.parametrize(("inputs", "told"), WRONG_FOR_PROGRAM)
def test_wrong_example_inputs_of_a_program(inputs: Any, told: str) -> None:
    """A program knows what it was captured for."""
    with pytest.raises(RemovalError, match=told):
        remove_channels(capture(chain(), (X,)), inputs)


def test_neither_a_module_nor_a_program() -> None:
    """A function has no weights."""
    with pytest.raises(RemovalError, match="got function"):
        remove_channels(copy.copy, (X,))  # type: ignore[arg-type]


def test_infinite_mask_as_an_input() -> None:
    """Masks of attention hold -inf; random inputs for the proof must keep it where it is."""
    net = Net(
        lambda self, x, mask: self.o(torch.softmax(self.a(x) @ x.transpose(1, 2) + mask, -1) @ self.v(x)),
        a=nn.Linear(8, 8), v=nn.Linear(8, 8), o=nn.Linear(8, 2),
    )  # fmt: skip
    kill(net.v, 1)
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    removed = remove_channels(net, (torch.randn(2, 5, 8), mask), objective="macs")
    assert removed.program.state_dict["v.weight"].shape[0] == 7
