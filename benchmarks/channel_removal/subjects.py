"""The networks, with random weights and with BatchNorms that look trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sample_models.densenet import densenet121
from sample_models.efficientnet_v2 import efficientnet_v2_s
from sample_models.mobilenet_v2 import mobilenet_v2
from sample_models.resnet import ResNet, resnet18, resnet50

NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet18(1000),
    "resnet50": lambda: resnet50(1000),
    "mobilenet_v2": lambda: mobilenet_v2(1000),
    "densenet121": lambda: densenet121(1000),
    "efficientnet_v2_s": lambda: efficientnet_v2_s(1000),
}
SIZE = 224
_CALIBRATION_IMAGES = 4


def network(name: str) -> nn.Module:
    """Build a network with the same random weights each time, in inference mode."""
    torch.manual_seed(0)
    return NETS[name]().eval()


def deep_resnet(times: int) -> nn.Module:
    """Build ResNet-18 with every stage `times` as deep, in inference mode."""
    torch.manual_seed(0)
    return ResNet(1000, 64, [2 * times] * 4, bottleneck=False, stem="imagenet").eval()


def image(size: int = SIZE, seed: int = 7) -> Tensor:
    """Return one random image, (1, 3, size, size)."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def calibrate(model: nn.Module, size: int = SIZE) -> nn.Module:
    """Give every BatchNorm random scales and shifts, and the statistics of its inputs; in place.

    The masks must be there already: activations then keep their size through the whole network, and rounding stays
    small. A dead filter has no variance; it gets a mean of its own, so that its constant is not its shift alone.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
        norm.bias.copy_(0.3 * torch.randn(norm.num_features, generator=generator))
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    model.train()
    model(torch.randn(_CALIBRATION_IMAGES, 3, size, size, generator=generator))
    model.eval()
    for norm in norms:
        _revive(norm, generator)
    return model


def _revive(norm: nn.BatchNorm2d, generator: torch.Generator) -> None:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise TypeError("this BatchNorm keeps no statistics")
    dead = variance < 1e-10
    variance[dead] = 1.0
    mean[dead] = 0.1 * torch.randn(int(dead.sum()), generator=generator)
