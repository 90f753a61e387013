"""Random networks in which channels meet in every way that we know, and random masks on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 6
"""Height and width of the images; every block keeps them."""

WORDS = 20
"""How many the stem for tokens knows."""

ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Hardswish, nn.Identity)


class Residual(nn.Module):
    """Add, maybe with an activation behind."""

    def __init__(self, body: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.body, self.behind = body, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(x + self.body(x))


class Concatenation(nn.Module):
    """Join a branch with its input."""

    def __init__(self, body: nn.Module, first: bool) -> None:
        super().__init__()
        self.body, self.first = body, first

    def forward(self, x: Tensor) -> Tensor:
        parts = [x, self.body(x)]
        return torch.cat(parts if self.first else parts[::-1], 1)


class Split(nn.Module):
    """Let half of the channels go through a body, and join or add the halves again."""

    def __init__(self, body: nn.Module, add: bool) -> None:
        super().__init__()
        self.body, self.add = body, add

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        left = self.body(left)
        return left + right if self.add else torch.cat([right, left], 1)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Shuffle(nn.Module):
    """Interleave the groups of a grouped convolution."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Attention(nn.Module):
    """A transformer block on the pixels; `spelled` out by products of matrices."""

    def __init__(self, width: int, heads: int, spelled: bool) -> None:
        super().__init__()
        self.heads, self.spelled = heads, spelled
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.view(n, h * w, self.heads, c // self.heads).transpose(1, 2) for part in parts)
        if self.spelled:
            y = torch.softmax(q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(n, h * w, c))
        x = x + self.down(F.gelu(self.up(x)))
        return x.transpose(1, 2).reshape(n, c, h, w)


class Layer(nn.Module):
    """Torch's own transformer layer on the pixels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, c, h, w)


class Twice(nn.Module):
    """One layer that is called twice, its result scaled in between."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).tanh())


class Sliced(nn.Module):
    """Overlapping slices of the channels, put side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, : x.shape[1] // 2 + 1], x[:, x.shape[1] // 2 :]], 1)


class Pixels(nn.Module):
    """Channels become pixels and pixels channels, with a layer between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.between = nn.Conv2d(width, 4, 1), nn.Conv2d(1, 2, 3, padding=1)
        self.down = nn.Conv2d(8, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.pixel_unshuffle(self.between(F.pixel_shuffle(self.up(x), 2)).relu(), 2))


class Branches(nn.Module):
    """One layer whose result several others read, each its part of it."""

    def __init__(self, trunk: nn.Module, branches: list[nn.Module]) -> None:
        super().__init__()
        self.trunk, self.branches = trunk, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return torch.cat([branch(x) for branch in self.branches], 1)


class Tokens(nn.Module):
    """A stem for numbers of words."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x).permute(0, 3, 1, 2)


class Pair(nn.Module):
    """A stem for two images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(3, width, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left(x) + self.right(y).relu()


class Network(nn.Module):
    """A stem, blocks, and one or two heads; the second is a map."""

    def __init__(self, stem: nn.Module, body: nn.Module, head: nn.Module, other: nn.Module | None) -> None:
        super().__init__()
        self.stem, self.body, self.head, self.other = stem, body, head, other

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.body(self.stem(*inputs))
        return self.head(x) if self.other is None else (self.head(x), self.other(x))


class Head(nn.Module):
    """From maps to numbers: by the mean, or pixel by pixel."""

    def __init__(self, width: int, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.linear = nn.Linear(width * 4 if flat else width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.adaptive_avg_pool2d(x, 2).flatten(1) if self.flat else x.mean((2, 3)))


@dataclass
class Builder:
    """Draws blocks; `kinds` records what was used."""

    draw: Random
    kinds: list[str] = field(default_factory=list)

    def network(self, blocks: int) -> tuple[Network, tuple[Tensor, ...]]:
        """Return a network with its inputs: mostly an image (N, 3, SIZE, SIZE), to three numbers."""
        width = self.draw.choice((4, 6, 8))
        stem, inputs = self.stem(width)
        layers: list[nn.Module] = []
        for _ in range(blocks):
            block, width = self.block(width, depth=2)
            layers.append(block)
        other = nn.Conv2d(width, 2, 1) if self.draw.random() < 0.2 else None
        return Network(stem, nn.Sequential(*layers), Head(width, self.draw.random() < 0.3), other), inputs

    def stem(self, width: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return the first layer of a network, and what it reads."""
        image = torch.randn(2, 3, SIZE, SIZE)
        kind = self.draw.choice(("image", "image", "image", "tokens", "pair"))
        if kind == "tokens":
            return Tokens(width), (torch.arange(2 * SIZE * SIZE).reshape(2, SIZE, SIZE) % WORDS,)
        if kind == "pair":
            return Pair(width), (image, torch.randn(2, 3, SIZE, SIZE))
        return nn.Conv2d(3, width, 3, padding=1), (image,)

    def block(self, width: int, depth: int) -> tuple[nn.Module, int]:
        """Return a block and the width of its result; nested ones have less depth."""
        nested = ("residual", "concatenation", "split") if depth else ()
        makers: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
            name: getattr(self, f"_{name}")
            for name in (
                "plain",
                "plain",
                "grouped",
                "depthwise",
                "gate",
                "attention",
                "resized",
                "shared",
                "sliced",
                "pixels",
                "branches",
                *nested,
                *nested,
            )
        }
        names = [name for name in makers if width % 2 == 0 or name not in ("split", "grouped", "attention")]
        name = self.draw.choice(names)
        self.kinds.append(name)
        return makers[name](width, depth)

    def same(self, width: int, depth: int) -> nn.Module:
        """Return a body that keeps the width."""
        body, out = self.block(width, depth - 1)
        return body if out == width else nn.Sequential(body, self._convolution(out, width))

    def _convolution(self, width: int, out: int, groups: int = 1) -> nn.Sequential:
        size, step = self.draw.choice(((1, 1), (3, 1), (3, 1), (3, 2)))
        bias = self.draw.random() < 0.5
        layers: list[nn.Module] = [
            nn.Conv2d(width, out, size, padding=size // 2 * step, dilation=step, groups=groups, bias=bias)
        ]
        norm = self.draw.random()
        if norm < 0.6:
            layers.append(nn.BatchNorm2d(out) if norm < 0.5 else nn.GroupNorm(out // 2 if out % 2 == 0 else out, out))
        return nn.Sequential(*layers, self.draw.choice(ACTIVATIONS)())

    def _plain(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        out = self.draw.choice((3, 4, 6, 8))
        return self._convolution(width, out), out

    def _grouped(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        layers = [self._convolution(width, 2 * width, groups=2)]
        return nn.Sequential(*layers, Shuffle(2)) if self.draw.random() < 0.5 else layers[0], 2 * width

    def _depthwise(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        times = self.draw.choice((1, 1, 2))
        return self._convolution(width, times * width, groups=width), times * width

    def _gate(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        return Gate(width, max(width // 2, 2)), width

    def _attention(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        form = self.draw.random()
        return Layer(width, 2) if form > 0.75 else Attention(width, 2, form < 0.5), width

    def _resized(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        kinds: tuple[nn.Module, ...] = (
            nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)),
            nn.Sequential(nn.AvgPool2d(2), nn.ConvTranspose2d(width, width, 2, stride=2)),
            nn.Sequential(nn.AvgPool2d(2), nn.ConvTranspose2d(width, width, 2, stride=2, groups=width)),
            nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(width, width, 3)),
            nn.Sequential(nn.ReplicationPad2d((1, 0, 0, 1)), nn.Conv2d(width, width, 2), nn.ZeroPad2d(0)),
            nn.MaxPool2d(3, stride=1, padding=1),
        )
        return self.draw.choice(kinds), width

    def _shared(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        return Twice(self._convolution(width, width)), width

    def _sliced(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        return Sliced(), width + 1

    def _pixels(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        return Pixels(width), width

    def _branches(self, width: int, depth: int) -> tuple[nn.Module, int]:
        del depth
        inner = self.draw.choice((6, 8))
        trunk = nn.Sequential(nn.Conv2d(width, inner, 1), self.draw.choice(ACTIVATIONS)())
        outs = [self.draw.choice((2, 3)) for _ in range(self.draw.choice((2, 2, 3)))]
        return Branches(trunk, [self._convolution(inner, out) for out in outs]), sum(outs)

    def _residual(self, width: int, depth: int) -> tuple[nn.Module, int]:
        return Residual(self.same(width, depth), self.draw.choice(ACTIVATIONS)()), width

    def _concatenation(self, width: int, depth: int) -> tuple[nn.Module, int]:
        body, out = self.block(width, depth - 1)
        return Concatenation(body, self.draw.random() < 0.5), width + out

    def _split(self, width: int, depth: int) -> tuple[nn.Module, int]:
        add = self.draw.random() < 0.5
        return Split(self.same(width // 2, depth), add), width // 2 if add else width


def masked(model: nn.Module, draw: Random) -> nn.Module:
    """Zero random filters (with their bias, or not) and random input columns; give BatchNorms what training leaves."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    share = draw.choice((0.1, 0.3, 0.6))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -1, 1),
                (module.running_mean, -0.5, 0.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(module, nn.GroupNorm):
            module.bias.data.uniform_(-1, 1, generator=generator)
        if isinstance(module, nn.Embedding):
            module.weight.data[:, torch.rand(module.embedding_dim, generator=generator) < share] = 0
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            _mask(module, share, draw, generator)
    return model


def _mask(
    module: nn.Conv2d | nn.Linear | nn.ConvTranspose2d, share: float, draw: Random, generator: torch.Generator
) -> None:
    rows = 1 if isinstance(module, nn.ConvTranspose2d) else 0

    def dead(axis: int) -> Tensor:
        return torch.rand(module.weight.shape[axis], generator=generator) < share

    if draw.random() < 0.7:
        chosen = dead(rows)
        module.weight.data.movedim(rows, 0)[chosen] = 0
        if module.bias is not None and rows == 0 and draw.random() < 0.7:
            module.bias.data[chosen] = 0
    if draw.random() < 0.7:
        module.weight.data.movedim(1 - rows, 0)[dead(1 - rows)] = 0
