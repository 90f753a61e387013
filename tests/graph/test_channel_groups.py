"""Channel groups: what is tied, what follows, and what may not be pruned and why."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdp_export.graph.capture import capture
from pdp_export.graph.channel_groups import ChannelGroup, channel_groups
from pdp_export.graph.counting import count
from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.resnet import resnet_cifar


def groups_of(model: nn.Module, *shape: int) -> dict[str, ChannelGroup]:
    return {group.name: group for group in channel_groups(capture(model, (torch.randn(shape),)))}


def test_depthwise_and_batch_norm_follow_their_producer() -> None:
    """A mask on the producer alone leaves BatchNorm shifts alive, and nothing can be removed."""
    groups = groups_of(mobilenet_v1(width=0.25, blocks=2), 2, 3, 32, 32)
    first = groups["features.0.0.weight"]
    assert first.filters == ("features.0.0.weight",)
    assert first.followers == (
        "features.0.1.weight", "features.0.1.bias", "features.1.0.weight", "features.1.1.weight", "features.1.1.bias",
    )  # fmt: skip
    assert first.consumers == ("features.2.0.weight",)
    assert (first.channels, first.frozen) == (8, None)
    assert groups["classifier.weight"].frozen == "it reaches an output of the model"


def test_residual_stream_is_one_group() -> None:
    """Two writers of one stream pruned apart agree on nothing."""
    stream = groups_of(resnet_cifar(depth=14), 2, 3, 16, 16)["features.0.weight"]
    assert stream.filters == ("features.0.weight", "features.3.body.3.weight", "features.4.body.3.weight")
    assert "features.5.shortcut.0.weight" in stream.consumers


class Zoo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.soft, self.gate, self.cut = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 6)
        self.shifted, self.plain, self.wide = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 3)
        self.heads = nn.ModuleList([nn.Linear(size, 2) for size in (8, 8, 6, 8, 11)])

    def forward(self, x: Tensor) -> Tensor:
        readers = [
            torch.softmax(self.soft(x), -1),
            torch.sigmoid(self.gate(x)),
            self.cut(x) + torch.nn.functional.pad(self.wide(x)[:, :2], (2, 2)),
            self.shifted(x) * 2 + 1,
            torch.cat([self.plain(x), self.wide(x)], 1),
        ]
        return sum(head(value) for head, value in zip(self.heads, readers, strict=True))  # type: ignore[return-value]


def test_reasons() -> None:
    """Each group that stays says why; a concatenation alone is no reason."""
    groups = groups_of(Zoo(), 2, 4)
    assert "_softmax" in str(groups["soft.weight"].frozen) or "softmax" in str(groups["soft.weight"].frozen)
    assert "not zero where" in str(groups["gate.weight"].frozen)
    assert "not zero where" in str(groups["shifted.weight"].frozen)
    assert "pads along the channel axis" in str(groups["wide.weight"].frozen)
    assert groups["cut.weight"].frozen is not None
    assert groups["plain.weight"].frozen is None
    assert groups["plain.weight"].consumers == ("heads.4.weight",)


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.last = nn.Linear(4, 3), nn.Linear(4, 5), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.cat([self.a(x), self.b(x)], 1)))


def test_batch_norm_over_a_concatenation_freezes() -> None:
    """Its weights cannot be masked row by row with one producer."""
    groups = groups_of(Normalised(), 2, 4)
    assert "carries only some" in str(groups["a.weight"].frozen)
    assert "carries only some" in str(groups["b.weight"].frozen)


def test_counts_match_the_published_figures() -> None:
    """ResNet-18 has 1.814 G multiply-accumulates and 11.69 M parameters; here a width and size that fit a test."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(1))
    model.append(nn.Linear(8 * 36, 5))
    model[0].weight.data[:2] = 0
    counts = count(capture(model, (torch.randn(4, 3, 8, 8),), {0: {0: "batch"}}))
    assert [layer.macs for layer in counts.layers] == [64 * 27 * 8, 36 * 9 * 8, 288 * 5]
    assert counts.macs == sum(layer.macs for layer in counts.layers)
    assert counts.parameters == sum(value.numel() for value in model.parameters())
    assert counts.parameters - counts.nonzero == 2 * 27
    assert counts.layers[0].layer == "0"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.up((self.mixer(x, x, x, need_weights=False)[0] @ x.transpose(1, 2) @ x).transpose(1, 2))


def test_counts_of_products_and_transposed_convolutions() -> None:
    """Work that has no weight, and work per input position, is counted too."""
    counts = count(capture(Attention(), (torch.randn(3, 5, 8),)))
    projections, attention, products, transposed = 5 * 8 * 32, 2 * 5 * 5 * 8, 2 * 5 * 5 * 8, 5 * 3 * 8 * 4
    assert counts.macs == projections + attention + products + transposed


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_and_groups_are_no_channels() -> None:
    """A mask over rows would cut heads in pieces, and groups to different widths, of which nothing can go."""
    (heads, *_) = channel_groups(capture(Heads(), (torch.randn(2, 5, 8),)))
    assert "share one fate" in str(heads.frozen)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 2, 1))
    first, second, _ = channel_groups(capture(model, (torch.randn(2, 3, 4, 4),)))
    assert "2 groups" in str(first.frozen)
    assert "2 groups" in str(second.frozen)
