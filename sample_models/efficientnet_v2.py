"""EfficientNetV2 (Tan and Le 2021, arXiv 2104.00298), in one file.

Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507) multiplies a tensor by a gate made of its own means, which
ties the channels of two branches by a product instead of a sum. Dropout and stochastic depth are left out: they only
act in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

EPSILON = 1e-3
"""What all BatchNorms add to the variance."""


class Stage(NamedTuple):
    """Blocks of one kind; the first one changes the width and strides."""

    fused: bool
    expansion: int
    stride: int
    outputs: int
    repeats: int


# EfficientNetV2-S (Table 4 of the paper), and the channels around its stages.
STAGES = (
    Stage(True, 1, 1, 24, 2), Stage(True, 4, 2, 48, 4), Stage(True, 4, 2, 64, 4),
    Stage(False, 4, 2, 128, 6), Stage(False, 6, 1, 160, 9), Stage(False, 6, 2, 256, 15),
)  # fmt: skip
STEM, LAST = 24, 1280


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs, eps=EPSILON)]


class SqueezeExcitation(nn.Module):
    """Scales every channel by a gate between 0 and 1, computed from the means of all channels."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape; the gate is (N, C, 1, 1)."""
        return x * self.gate(x)  # type: ignore[no-any-return]


def _mbconv(inputs: int, outputs: int, stride: int, expansion: int) -> list[nn.Module]:
    """Expand (1x1), filter (depthwise 3x3), gate (a quarter of the *input* channels), project (1x1)."""
    hidden = inputs * expansion
    return [
        *_conv(inputs, hidden, 1),
        nn.SiLU(inplace=True),
        *_conv(hidden, hidden, 3, stride, groups=hidden),
        nn.SiLU(inplace=True),
        SqueezeExcitation(hidden, max(1, inputs // 4)),
        *_conv(hidden, outputs, 1),
    ]


def _fused_mbconv(inputs: int, outputs: int, stride: int, expansion: int) -> list[nn.Module]:
    """Expand and filter by one 3x3 convolution, then project; without expansion the 3x3 is all there is."""
    if expansion == 1:
        return [*_conv(inputs, outputs, 3, stride), nn.SiLU(inplace=True)]
    hidden = inputs * expansion
    return [*_conv(inputs, hidden, 3, stride), nn.SiLU(inplace=True), *_conv(hidden, outputs, 1)]


class Block(nn.Module):
    """An MBConv or a fused MBConv (Figure 2 of the paper); adds its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, fused: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_fused_mbconv if fused else _mbconv)(inputs, outputs, stride, expansion))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H/stride, W/stride), rounded up."""
        result: Tensor = self.body(x)
        return result + x if self.shortcut else result


class EfficientNetV2(nn.Module):
    """The network.

    Args:
        classes: Number of logits.
        width: Scales every channel count, rounded to a multiple of 8.
        depth: Scales the blocks of each stage, rounded up.
        stem_stride: 2 halves the image at the entry; 1 keeps small images large enough.
        stages: The blocks, from the stem on.
    """

    def __init__(self, classes: int, width: float, depth: float, stem_stride: int, stages: Sequence[Stage]) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(8, round(channels * width / 8) * 8)

        channels, last = scaled(STEM), scaled(LAST)
        layers: list[nn.Module] = [*_conv(3, channels, 3, stem_stride), nn.SiLU(inplace=True)]
        for stage in stages:
            for index in range(math.ceil(stage.repeats * depth)):
                stride = stage.stride if index == 0 else 1
                layers.append(Block(channels, scaled(stage.outputs), stride, stage.expansion, stage.fused))
                channels = scaled(stage.outputs)
        self.features = nn.Sequential(*layers, *_conv(channels, last, 1), nn.SiLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) images to (N, classes) logits."""
        x = self.features(image)  # (N, C, H/32, W/32), or H/16 and W/16 with a stem of stride 1
        return self.classifier(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def _initialise(convolution: nn.Conv2d) -> None:
    """Draw weights of variance 2 / fan-out (arXiv 1502.01852, equation 14), counted within a group."""
    fan_out = convolution.weight[0, 0].numel() * convolution.out_channels // convolution.groups
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / fan_out))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def efficientnet_v2_s(classes: int = 1000) -> nn.Module:
    """Build EfficientNetV2-S: 21,458,488 parameters and 2.85 G multiply-accumulates at 224x224."""
    return EfficientNetV2(classes, 1.0, 1.0, stem_stride=2, stages=STAGES)


def efficientnet_v2(classes: int = 10, width: float = 0.25, depth: float = 0.25, stem_stride: int = 1) -> nn.Module:
    """Build a scaled EfficientNetV2-S, by default a small one for small images."""
    return EfficientNetV2(classes, width, depth, stem_stride, STAGES)
