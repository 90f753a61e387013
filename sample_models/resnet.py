"""Residual networks (He et al. 2015, arXiv 1512.03385), CIFAR and ImageNet stems, in one file."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1-3x3-1x1 with a bottleneck of four."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        relu = nn.ReLU(inplace=True)
        if bottleneck:
            layers = [*_conv(inputs, width, 1), relu, *_conv(width, width, 3, stride), relu, *_conv(width, outputs, 1)]
        else:
            layers = [*_conv(inputs, width, 3, stride), relu, *_conv(width, outputs, 3)]
        self.body = nn.Sequential(*layers)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H/stride, W/stride)."""
        return self.relu(self.body(x) + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A stem, stages of blocks that double the width and halve the image, and a linear classifier."""

    def __init__(self, classes: int, width: int, repeats: Sequence[int], bottleneck: bool, stem: str) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_conv(3, width, *((3, 1) if stem == "cifar" else (7, 2))), nn.ReLU(inplace=True)]
        if stem == "imagenet":
            layers.append(nn.MaxPool2d(3, 2, padding=1))
        channels = width
        for stage, count in enumerate(repeats):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(Block(channels, width << stage, stride, bottleneck))
                channels = (width << stage) * (4 if bottleneck else 1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) images to (N, classes) logits."""
        return self.classifier(self.pool(self.features(image)).flatten(1))  # type: ignore[no-any-return]


def resnet_cifar(classes: int = 10, depth: int = 20, width: int = 16) -> nn.Module:
    """Build a CIFAR residual network of depth 6n + 2 with three stages (section 4.2 of the paper)."""
    return ResNet(classes, width, [(depth - 2) // 6] * 3, bottleneck=False, stem="cifar")


def resnet18(classes: int = 1000, width: int = 64) -> nn.Module:
    """Build ResNet-18."""
    return ResNet(classes, width, [2, 2, 2, 2], bottleneck=False, stem="imagenet")


def resnet50(classes: int = 1000, width: int = 64) -> nn.Module:
    """Build ResNet-50."""
    return ResNet(classes, width, [3, 4, 6, 3], bottleneck=True, stem="imagenet")
