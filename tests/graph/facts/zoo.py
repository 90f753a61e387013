"""One small network per way in which channels meet; the docstring says what goes wrong there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {}


def member(*size: int) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a network with the shape of its input."""

    def register(network: type[nn.Module]) -> type[nn.Module]:
        ZOO[network.__name__] = (network, size)
        return network

    return register


def conv(inputs: int, outputs: int, size: int = 3, groups: int = 1, padding: int | None = None) -> nn.Conv2d:
    """Return a convolution that keeps the image size."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2 if padding is None else padding, groups=groups)


@member(2, 3, 6, 6)
class Residual(nn.Module):
    """Branches that die separately on one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.c = conv(3, 6), conv(6, 6), conv(6, 6), conv(6, 4, padding=0)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.norm(self.a(x)).relu()
        return self.c((x + self.b(x)).tanh()).mean((2, 3))


@member(2, 3, 6, 6)
class SqueezeExcite(nn.Module):
    """A gate multiplied with what it is computed from: a dead channel silences its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up, self.last = conv(3, 6), conv(6, 3, 1), conv(3, 6, 1), conv(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        gate = self.up(self.down(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return self.last(x * gate)


@member(2, 3, 6, 6)
class Concatenated(nn.Module):
    """A dense block: what is read twice, at different places of different concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 3), conv(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = torch.cat([self.b(x), x], 1)
        return torch.cat([F.max_pool2d(self.c(x), 2), F.avg_pool2d(x, 2)], 1).flatten(1)[:, 3:50]


@member(2, 3, 6, 6)
class Split(nn.Module):
    """Parts of a tensor that go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(4, 4), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).relu().chunk(2, 1)
        return self.c(self.b(left) + right * left)


@member(2, 3, 6, 6)
class Grouped(nn.Module):
    """A grouped and a depthwise convolution, with a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.deep = conv(3, 6), conv(6, 6, groups=2), conv(6, 12, groups=6)
        self.last = conv(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu())
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(F.hardswish(self.deep(x)))


@member(2, 3, 6, 6)
class Resized(nn.Module):
    """Transposed convolution, upsampling and padding, which breaks constants at the border."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.last = conv(3, 5), nn.ConvTranspose2d(5, 4, 2, stride=2), conv(9, 2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        y = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(F.pad(torch.cat([self.up(x), y], 1), (1, 1, 0, 2)))


@member(2, 5, 12)
class Attention(nn.Module):
    """Heads that die as a whole, in a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(x)))


@member(2, 5, 8)
class SpelledOutAttention(nn.Module):
    """The same by matmul and softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (layer(x).view(n, t, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, c))[:, 0]


@member(2, 3, 6, 6)
class Shuffled(nn.Module):
    """Channels that become pixels, and pixels that become channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(2, 3), conv(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.a(x).tanh(), 2)
        return self.c(F.pixel_unshuffle(self.b(x).relu(), 2)).mean((2, 3))


@member(2, 3, 6, 6)
class Normalised(nn.Module):
    """GroupNorm mixes the channels of a group: one that is read needs all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.head = conv(3, 6), nn.GroupNorm(3, 6), conv(6, 3), nn.Linear(3 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x)).relu()).flatten(1))
