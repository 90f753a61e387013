"""Programs that once crashed a rule or made it lie; the proof refused, and the user could do nothing about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdp_export.graph.capture import capture
from pdp_export.graph.channel_groups import channel_groups
from pdp_export.removal import Removed, remove_channels
from tests.removal.networks import kill


class Net(nn.Module):
    """Layers by name and a forward function over them."""

    def __init__(self, forward: Callable[..., object], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def removed(model: nn.Module, *size: int, align: int = 1, dynamic: dict[int, dict[int, str]] | None = None) -> Removed:
    """Remove channels, with copies and without; return the result without."""
    for objective in ("macs", "latency"):
        result = remove_channels(model, (torch.randn(size),), align=align, dynamic=dynamic, objective=objective)
    return result


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def keys_and_values(net: Net, x: Tensor, cut: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    n, t, _ = x.shape
    k, v = cut(net.qkv(x).view(n, t, 3, 2, 4))
    q = net.q(x).view(n, t, 2, 4).transpose(1, 2)
    return net.o(attend(q, k.transpose(1, 2), v.transpose(1, 2)))


@pytest.mark.parametrize(
    "cut",
    [lambda y: y.unbind(2)[1:], lambda y: (y[:, :, 1], y[:, :, 2]), lambda y: y[:, :, 1:].unbind(2)],
    ids=["unbind", "select", "slice"],
)
def test_cuts_along_one_of_several_axes(cut: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    """The first third of a fused projection is unused: the cuts behind it must move."""
    net = Net(lambda self, x: keys_and_values(self, x, cut), qkv=nn.Linear(8, 24), q=nn.Linear(8, 8), o=nn.Linear(8, 8))
    assert removed(net, 2, 5, 8).program.state_dict["qkv.weight"].shape[0] == 16


@pytest.mark.parametrize("cut", [lambda y: y.split(3, 1), lambda y: (y[:, :3], y[:, 3:6], y[:, 6:])])
def test_parts_of_an_axis_of_heads(cut: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
    """Queries, keys and values as heads of one axis: a third of the parts is two heads long then."""

    def forward(self: Net, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        return self.o(attend(*cut(self.qkv(x).view(n, t, 9, 4).transpose(1, 2))))

    net = Net(forward, qkv=nn.Linear(12, 36), o=nn.Linear(12, 12))
    net.o.weight.data[:, :4] = 0
    assert removed(net, 2, 5, 12).program.state_dict["qkv.weight"].shape[0] == 24


def test_parts_with_different_fates_stay_a_rectangle() -> None:
    """One half of a view loses a group, the other does not."""

    def forward(self: Net, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        a, b = self.i(x).view(n, t, 2, 2, 4).unbind(2)
        return self.a(a.relu().flatten(2)) + self.b(b.tanh().flatten(2))

    net = Net(forward, i=nn.Linear(8, 16), a=nn.Linear(8, 3), b=nn.Linear(8, 3))
    net.a.weight.data[:, :4] = 0
    removed(net, 2, 5, 8)


def test_vectors() -> None:
    """Channels along the only axis."""
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    kill(net[0], 1)
    assert removed(net, 4).program.state_dict["0.weight"].shape[0] == 5


def test_softmax_times_a_table() -> None:
    """Prototypes: a product with a matrix of lower rank."""
    net = Net(
        lambda self, x: self.o(torch.softmax(self.q(x), -1) @ self.table),
        q=nn.Linear(8, 5), table=nn.Parameter(torch.randn(5, 6)), o=nn.Linear(6, 2),
    )  # fmt: skip
    removed(net, 2, 4, 8)


def test_size_that_only_the_run_tells() -> None:
    """nonzero() has no size while tracing; what does not touch it is removed all the same."""

    def forward(self: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.d(self.c(x).relu())
        return y, torch.nonzero(y > 0)

    net = Net(forward, c=nn.Conv2d(3, 6, 1), d=nn.Conv2d(6, 2, 1))
    kill(net.c, 2)
    assert removed(net, 2, 3, 4, 4).program.state_dict["c.weight"].shape[0] == 5


def test_product_that_spreads_one_channel() -> None:
    """A map of one channel times eight matrices."""
    net = Net(
        lambda self, x: self.c(self.a(x) @ self.b(x)), a=nn.Conv2d(3, 1, 1), b=nn.Conv2d(3, 8, 1), c=nn.Conv2d(8, 2, 1)
    )
    removed(net, 2, 3, 4, 4)


def test_reduction_with_a_dtype() -> None:
    """A float32 constant met a float64 weight."""
    net = Net(
        lambda self, x: self.b(self.a(x).mean((2, 3), dtype=torch.float32)), a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 2)
    )
    assert channel_groups(capture(net, (torch.randn(2, 3, 4, 4),)))[0].frozen is None


def test_two_constants_in_a_sum_of_products() -> None:
    """Both factors are constant, so neither is live; their product is in every sum."""
    net = Net(
        lambda self, x: self.a(x).flatten(2).transpose(1, 2) @ self.b(x).flatten(2),
        a=nn.Conv2d(3, 6, 1),
        b=nn.Conv2d(3, 6, 1),
    )
    for layer in (net.a, net.b):
        layer.weight.data[[2, 3]] = 0
    net.b.bias.data[3] = 0
    assert removed(net, 2, 3, 4, 4).program.state_dict["b.bias"].shape[0] == 5


def test_large_constant_that_does_not_matter() -> None:
    """It is read by a row that nobody needs, and must not keep the others from being merged."""
    net = Net(
        lambda self, x: (self.c(self.b(self.a(x))), self.a(x)[:, :2]),
        a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(6, 3, 3, padding=1), c=nn.Conv2d(3, 2, 1),
    )  # fmt: skip

    def forward(self: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        return self.c(self.b(x)), x[:, :2]

    net.function = forward
    net.a.weight.data[:4] = 0
    net.a.bias.data[:4] = torch.tensor([1.0, 1.0, 2.0, 1000.0])
    net.b.weight.data[1:, 3] = 0
    net.c.weight.data[:, 0] = 0
    removed(net, 2, 3, 6, 6)


@pytest.mark.parametrize("align", [1, 4])
def test_constant_row_that_fills_a_width(align: int) -> None:
    """It stays only for the width, and what it emits must still be what others count on."""
    net = Net(
        lambda self, x: self.d(self.c(self.a(x)).relu() + self.c(self.a(x * 2)).relu()),
        a=nn.Conv2d(3, 5, 1), c=nn.Conv2d(5, 4, 1), d=nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    net.a.weight.data[0] = 0
    net.a.bias.data[0] = 2.0
    net.c.weight.data[1, 1:] = 0
    net.c.weight.data[[0, 2, 3], 0] = 0
    net.c.weight.data[1, 0] = 1
    removed(net, 2, 3, 6, 6, align=align)


def test_mean_over_a_dynamic_padded_image() -> None:
    """The share of the border depends on the size."""
    net = Net(
        lambda self, x: self.b(F.pad(self.a(x), (1, 1, 1, 1)).mean((2, 3))), a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 2)
    )
    net.a.weight.data[2] = 0
    removed(net, 2, 3, 4, 4, dynamic={0: {2: "h", 3: "w"}})


def test_new_bias_leaves_its_namesake_alone() -> None:
    """A parameter called bias beside the weight, which the layer does not use."""
    net = Net(
        lambda self, x: self.o(F.linear(self.pre(x), self.weight).relu() + self.bias),
        pre=nn.Linear(4, 6), o=nn.Linear(5, 2),
        weight=nn.Parameter(torch.randn(5, 6)), bias=nn.Parameter(torch.randn(5)),
    )  # fmt: skip
    net.pre.weight.data[1] = 0
    assert removed(net, 3, 4).program.state_dict["weight"].shape[1] == 5


class Masked(nn.Module):
    """Two heads under a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.register_buffer("mask", mask)
        self.o.weight.data[:, :4] = 0

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("mask", "rows"), [(torch.ones(5, 5).tril().bool(), 4), (torch.randn(2, 1, 5), 8), (torch.randn(1, 5, 5), 4)]
)
def test_masks_of_attention(mask: Tensor, rows: int) -> None:
    """Axes of a mask count from the right; one for each head keeps its heads."""
    assert removed(Masked(mask), 2, 5, 8).program.state_dict["v.weight"].shape[0] == rows


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def test_two_shuffles_in_a_row() -> None:
    """The second one gathers from what took the place of the first."""
    net = Net(lambda self, x: self.b(shuffled(shuffled(self.a(x), 2), 4)), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1))
    kill(net.a, 1, 2, 6)
    assert removed(net, 2, 3, 4, 4).program.state_dict["a.weight"].shape[0] == 5


def test_part_of_a_shuffle() -> None:
    """What is dead lies in the other half: the result loses nothing, its views do."""
    net = Net(lambda self, x: self.b(shuffled(self.a(x), 2)[:, :4]), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(4, 2, 1))
    assert removed(net, 2, 3, 4, 4).program.state_dict["a.weight"].shape[0] == 4


def test_squeeze_of_a_channel_axis() -> None:
    """It does nothing to two channels, and would drop the axis of one."""
    net = Net(lambda self, x: self.b(self.a(x).squeeze(1)), a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(2, 2, 1))
    kill(net.a, 0)
    removed(net, 2, 3, 6, 6)


def test_one_vector_for_a_stream_and_for_every_head() -> None:
    """Sliced for the one, it would not fit the other."""

    def forward(self: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        n, t, _ = x.shape
        return self.b(self.a(x) * self.scale), self.c((self.h(x).view(n, t, 2, 4) * self.scale).flatten(2))

    net = Net(
        forward, a=nn.Linear(8, 4), b=nn.Linear(4, 2), h=nn.Linear(8, 8), c=nn.Linear(8, 2),
        scale=nn.Parameter(torch.randn(4)),
    )  # fmt: skip
    kill(net.a, 1)
    removed(net, 2, 5, 8)


def test_empty_vector_in_a_concatenation() -> None:
    """Torch lets it pass, whatever its rank."""
    net = Net(
        lambda self, x: self.b(torch.cat([torch.zeros(0), self.a(x)], 1)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1)
    )
    removed(net, 2, 3, 4, 4)


def test_bits_as_other_numbers() -> None:
    """view(dtype) is no view of the same channels."""
    net = Net(lambda self, x: (self.a(x).view(torch.int32), self.a(x)), a=nn.Conv2d(3, 4, 1))
    removed(net, 2, 3, 4, 4)


def test_conversion_and_padded_maximum_keep_constants() -> None:
    """float() brings an assertion about the dtype; a maximum never sees its padding."""
    net = Net(
        lambda self, x: self.b(F.max_pool2d(self.a(x).float(), 3, 2, 1)), a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(6, 2, 1)
    )
    net.a.weight.data[2] = 0
    assert removed(net, 2, 3, 8, 8).program.state_dict["a.weight"].shape[0] == 5
