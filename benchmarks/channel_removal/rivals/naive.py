"""The obvious way: each layer gathers what it reads and scatters what it makes; nothing is reordered or removed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.channel_removal.case import Case
from benchmarks.channel_removal.dialect import folded
from benchmarks.channel_removal.masks import kept_columns, kept_filters
from benchmarks.channel_removal.ours import Made


class Select(nn.Module):
    """Reads some channels of (N, C, H, W)."""

    order: Tensor

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, len(channels), H, W)."""
        return x.index_select(1, self.order)


class Scatter(nn.Module):
    """Puts channels in their places among `width`; the others are zero."""

    order: Tensor

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        order = torch.full((width,), len(channels))
        order[channels] = torch.arange(len(channels))
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H, W)."""
        return F.pad(x, [0, 0, 0, 0, 0, 1]).index_select(1, self.order)


def naive(case: Case) -> Made:
    """Return the network with each convolution as narrow as its own zeros allow."""
    model = case.copy()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _narrow(layer))
    return Made(folded(model))


@torch.no_grad()
def _narrow(layer: nn.Conv2d) -> nn.Module:
    rows, columns = kept_filters(layer), kept_columns(layer)
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    small = nn.Conv2d(len(columns), len(rows), *sizes, bias=layer.bias is not None)  # type: ignore[arg-type]
    small.weight.copy_(layer.weight[rows][:, columns])
    if layer.bias is not None and small.bias is not None:
        small.bias.copy_(layer.bias[rows])
    before = [Select(columns)] if len(columns) < layer.in_channels else []
    behind = [Scatter(rows, layer.out_channels)] if len(rows) < layer.out_channels else []
    return nn.Sequential(*before, small, *behind) if before or behind else layer
