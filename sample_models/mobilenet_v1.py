"""MobileNet-v1 (Howard et al. 2017, arXiv 1704.04861), in one file.

The stem is a 3x3 convolution with stride 2 on RGB, since sparse inference kernels look for exactly
that shape at the entry of a network.
"""

from __future__ import annotations

from torch import Tensor, nn

# Output channels and stride of the 13 depthwise-separable blocks (Table 1 of the paper).
BLOCKS = [
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
]  # fmt: skip


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class MobileNetV1(nn.Module):
    """The network; `width` scales every channel count, rounded to a multiple of `divisor`."""

    def __init__(self, classes: int, width: float, blocks: int, divisor: int) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(divisor, round(channels * width / divisor) * divisor)

        channels = scaled(32)
        layers: list[nn.Module] = [_conv(3, channels, kernel=3, stride=2)]
        for outputs, stride in BLOCKS[:blocks]:
            layers.append(_conv(channels, channels, kernel=3, stride=stride, groups=channels))
            layers.append(_conv(channels, scaled(outputs), kernel=1, stride=1))
            channels = scaled(outputs)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) images to (N, classes) logits."""
        x = self.features(image)  # (N, C, H/32, W/32)
        x = self.pool(x).flatten(1)  # (N, C)
        return self.classifier(x)  # type: ignore[no-any-return]


def mobilenet_v1(classes: int = 10, width: float = 1.0, blocks: int = 13, divisor: int = 8) -> nn.Module:
    """Build MobileNet-v1; `blocks` below 13 keeps the first ones (for small images)."""
    return MobileNetV1(classes, width, blocks, divisor)
