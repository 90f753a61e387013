"""DenseNet-BC (Huang et al. 2017, arXiv 1608.06993), ImageNet and CIFAR stems, in one file.

Each layer reads the concatenation of everything that came before it in its block, so one tensor has many
readers that need not agree on the channels they want: the hard case of channel removal without additions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BOTTLENECK = 4
"""Width of the 1x1 convolution of a layer, in growths (section 3 of the paper, "Bottleneck layers")."""


def _normalised_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Normalise and rectify first, then convolve: the order of all layers but the stem."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), convolution]


class DenseLayer(nn.Module):
    """A 1x1 convolution to a bottleneck and a 3x3 convolution to `growth` new channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        hidden = BOTTLENECK * growth
        self.body = nn.Sequential(*_normalised_conv(inputs, hidden, 1), *_normalised_conv(hidden, growth, 3))

    def forward(self, earlier: list[Tensor]) -> Tensor:
        """Map tensors (N, C_i, H, W), whose channels sum up to `inputs`, to (N, growth, H, W)."""
        return self.body(torch.cat(earlier, 1))  # type: ignore[no-any-return]


class DenseBlock(nn.Module):
    """Layers that each read the input of the block and the outputs of all layers before them (equation 2)."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + index * growth, growth) for index in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_in + layers * growth, H, W)."""
        found = [x]
        for layer in self.layers:
            found.append(layer(found))
        return torch.cat(found, 1)


def _transition(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_normalised_conv(inputs, outputs, 1), nn.AvgPool2d(2))


def _stem(outputs: int, kind: str) -> list[nn.Module]:
    if kind == "cifar":
        return [nn.Conv2d(3, outputs, 3, padding=1, bias=False)]
    convolution = nn.Conv2d(3, outputs, 7, stride=2, padding=3, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]


class DenseNet(nn.Module):
    """A stem, dense blocks with transitions that halve channels and image in between, and a linear classifier.

    Args:
        classes: Number of logits.
        growth: Channels that each layer adds (k in the paper).
        blocks: Layers of each dense block.
        stem: "imagenet" (7x7 and pooling, the image shrinks by four) or "cifar" (3x3, the image keeps its size).
    """

    def __init__(self, classes: int, growth: int, blocks: Sequence[int], stem: str) -> None:
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module] = _stem(channels, stem)
        for index, count in enumerate(blocks):
            if index > 0:
                layers.append(_transition(channels, channels // 2))
                channels //= 2
            layers.append(DenseBlock(channels, growth, count))
            channels += count * growth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) images to (N, classes) logits; H and W are at least 32 (ImageNet) or 4 (CIFAR)."""
        return self.classifier(self.pool(self.features(image)).flatten(1))  # type: ignore[no-any-return]


def densenet121(classes: int = 1000) -> nn.Module:
    """Build DenseNet-121 (Table 1): 7,978,856 parameters and 2.83 G multiply-accumulates at 224x224."""
    return DenseNet(classes, growth=32, blocks=(6, 12, 24, 16), stem="imagenet")


def densenet_cifar(classes: int = 10, growth: int = 12, blocks: Sequence[int] = (16, 16, 16)) -> nn.Module:
    """Build a DenseNet-BC for small images; the defaults are the paper's L=100, k=12 with 0.8 M parameters."""
    return DenseNet(classes, growth, blocks, stem="cifar")
