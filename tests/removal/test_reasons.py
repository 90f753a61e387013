"""Why a dead filter stays: the report names who needs it and who brings it to life."""

from __future__ import annotations

import torch
from torch import nn

from pdp_export.removal import remove_channels
from tests.removal.networks import kill
from tests.removal.test_hard_cases import Net

X = torch.randn(2, 3, 8, 8)


def reason(net: nn.Module, layer: str) -> str:
    report = remove_channels(net, (X,)).report
    (found,) = [item.reason for item in report.layers if item.layer == layer]
    return found


def test_another_branch_is_named() -> None:
    """'Another branch, or padding before' sent the user looking through the whole network."""
    net = Net(
        lambda self, x: self.head(self.a(x) + self.b(x).relu()),
        a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 6, 1), head=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    kill(net.a, 1)
    assert reason(net, "a") == "head reads it, and b computes it"


def test_border_is_named() -> None:
    """A constant in the middle of an image that a padded depthwise layer makes another one at its border."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Tanh(), nn.Conv2d(6, 2, 1))
    model[0].weight.data[1] = 0
    assert reason(model, "0") == "3 reads it, and it is another number at the border behind 1"


def test_infinity_is_named() -> None:
    """What a buffer makes infinite cannot be dropped, whatever is zero."""
    net = Net(lambda self, x: self.b(self.a(x) * self.scale), a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1))
    net.register_buffer("scale", torch.ones(6, 1, 1).index_fill(0, torch.tensor([1]), torch.inf))
    kill(net.a, 1)
    assert reason(net, "a") == "b reads it, and it is infinite behind mul, which no zero absorbs"
