"""Random masks: every convolution of one group loses input columns, or filters, independently of all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

Kind = Literal["columns", "filters"]
SEED = 1000


def maskable(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Yield the convolutions of one group, without the stem."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    yield from ((name, layer) for name, layer in found[1:] if layer.groups == 1)


@torch.no_grad()
def mask(model: nn.Module, kind: Kind, ratio: float) -> None:
    """Zero a share of each convolution's input columns or filters, in place."""
    generator = torch.Generator().manual_seed(SEED)
    for _, layer in maskable(model):
        axis = 1 if kind == "columns" else 0
        count = layer.weight.shape[axis]
        dead = torch.randperm(count, generator=generator)[: round(ratio * count)]
        layer.weight.index_fill_(axis, dead, 0.0)


def kept_columns(layer: nn.Conv2d) -> list[int]:
    """Return the input columns that are not zero throughout."""
    return _kept(layer.weight.detach().transpose(0, 1))


def kept_filters(layer: nn.Conv2d) -> list[int]:
    """Return the filters that are not zero throughout, or have a bias."""
    kept = set(_kept(layer.weight.detach()))
    if layer.bias is not None:
        kept |= set(layer.bias.detach().nonzero().flatten().tolist())
    return sorted(kept)


def _kept(lines: torch.Tensor) -> list[int]:
    found: list[int] = lines.flatten(1).any(1).nonzero().flatten().tolist()
    return found
