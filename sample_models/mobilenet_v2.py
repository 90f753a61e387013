"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), in one file."""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, output channels, repeats, stride (Table 2 of the paper).
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise 3x3), project (1x1); adds its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*_conv(inputs, hidden, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
        depthwise = [*_conv(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True)]
        self.body = nn.Sequential(*expand, *depthwise, *_conv(hidden, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H/stride, W/stride)."""
        return x + self.body(x) if self.shortcut else self.body(x)


class MobileNetV2(nn.Module):
    """The network; `width` scales every channel count, rounded to a multiple of 8."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(8, round(channels * width / 8) * 8)

        channels = scaled(32)
        layers: list[nn.Module] = [*_conv(3, channels, 3, stride=2), nn.ReLU6(inplace=True)]
        for expansion, outputs, repeats, stride in STAGES:
            for index in range(repeats):
                layers.append(InvertedResidual(channels, scaled(outputs), stride if index == 0 else 1, expansion))
                channels = scaled(outputs)
        last = max(1280, scaled(1280))
        layers += [*_conv(channels, last, 1), nn.ReLU6(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(last, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) images to (N, classes) logits."""
        x = self.features(image)  # (N, C, H/32, W/32)
        return self.classifier(x.mean([2, 3]))  # type: ignore[no-any-return]


def mobilenet_v2(classes: int = 10, width: float = 1.0) -> nn.Module:
    """Build MobileNetV2."""
    return MobileNetV2(classes, width)
