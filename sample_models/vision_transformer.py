"""The vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), in one file.

Attention is torch's own scaled_dot_product_attention behind one linear layer for queries, keys and values, as
in timm: a head is a run of rows in each third of that layer, and of columns in the layer after it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

EPSILON = 1e-6
"""What all layer norms add to the variance."""


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be split into {heads} heads of equal size")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        """Map (N, T, width) to (N, heads, T, width / heads)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, width) tokens to the same shape."""
        query, key, value = (self._split(part) for part in self.qkv(x).chunk(3, dim=2))
        mixed = scaled_dot_product_attention(query, key, value)  # (N, heads, T, width / heads)
        return self.projection(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised before and added to its input (equations 2 and 3)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=EPSILON)
        self.attention = Attention(width, heads)
        self.perceptron_norm = nn.LayerNorm(width, eps=EPSILON)
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, width) tokens to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.perceptron(self.perceptron_norm(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Patches and a class token with learned positions, blocks, and a linear classifier of the class token.

    Args:
        classes: Number of logits.
        image: Height and width of the images, in pixels; positions are learned for this size only.
        patch: Height and width of a patch, in pixels.
        width: Channels of a token.
        depth: Number of blocks.
        heads: Attention heads of a block.
        ratio: Hidden channels of a block's perceptron, in widths.

    Raises:
        ValueError: when patches do not tile the image, or heads do not divide the width.
    """

    def __init__(self, classes: int, image: int, patch: int, width: int, depth: int, heads: int, ratio: float) -> None:
        super().__init__()
        if image % patch:
            raise ValueError(f"patches of {patch} pixels do not tile an image of {image}")
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, round(width * ratio)) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.classifier = nn.Linear(width, classes)
        for parameter in (self.class_token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, image, image) images to (N, classes) logits."""
        x = self.patches(image).flatten(2).transpose(1, 2)  # (N, T - 1, width)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions  # (N, T, width)
        return self.classifier(self.norm(self.blocks(x)[:, 0]))  # type: ignore[no-any-return]


def vit_tiny(classes: int = 1000) -> nn.Module:
    """Build ViT-Ti/16 for 224x224: 5,717,416 parameters and 1.25 G multiply-accumulates.

    The width is that of Touvron et al. 2021 (arXiv 2012.12877, Table 1), without their distillation token.
    """
    return VisionTransformer(classes, image=224, patch=16, width=192, depth=12, heads=3, ratio=4)


def vision_transformer(
    classes: int = 10,
    image: int = 32,
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    ratio: float = 2,
) -> nn.Module:
    """Build a vision transformer, by default a small one for small images (0.14 M parameters).

    Raises:
        ValueError: when patches do not tile the image, or heads do not divide the width.
    """
    return VisionTransformer(classes, image, patch, width, depth, heads, ratio)
