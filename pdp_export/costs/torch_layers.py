"""A layer with its gathers in torch, as eager code runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pdp_export.costs.sample import Sample, sample
from pdp_export.removal.costs import LayerWork

if TYPE_CHECKING:
    from pdp_export.costs.timing import Run

_PLAIN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def torch_run(work: LayerWork) -> Run:
    """Return a function that runs the layer once, in the threads that torch has."""
    parts = sample(work)
    batch, *spatial = work.source
    inputs = [torch.randn(batch, width, *spatial) for width in work.parts or (work.available,)]
    layer = _Layer(work, parts)

    @torch.no_grad()
    def run() -> Tensor:
        return layer(inputs)

    return run


class _Layer:
    def __init__(self, work: LayerWork, parts: Sample) -> None:
        self._work = work
        axis = 0 if work.kind == "transposed" else 1
        weight = torch.from_numpy(parts.weight)
        self._weights = (
            [part.contiguous() for part in torch.split(weight, list(work.parts), axis)] if work.parts else [weight]
        )
        self._biases = [torch.from_numpy(parts.bias), *[None] * (len(self._weights) - 1)]
        self._selected = None if parts.selected is None else torch.from_numpy(parts.selected)
        self._expanded = None if parts.expanded is None else torch.from_numpy(parts.expanded)
        self._ones = torch.ones(work.columns)
        self._padding = tuple(high for _, high in parts.padding)
        self._output_padding = parts.output_padding

    def __call__(self, inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        if self._selected is not None:
            x = x.index_select(1, self._selected)
        for stage in self._work.before:
            x = F.batch_norm(x, self._ones, self._ones) if stage == "norm" else F.relu(x)
        x, *others = (self._layer(*term) for term in zip((x, *inputs[1:]), self._weights, self._biases, strict=True))
        for other in others:
            x = x + other
        if self._expanded is not None:
            x = F.pad(x, [0, 0] * (x.dim() - 2) + [0, 1]).index_select(1, self._expanded)
        return x

    def _layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        work = self._work
        if work.kind == "linear":
            return F.linear(x, weight, bias)
        if work.kind == "transposed":
            layer = _TRANSPOSED[len(work.kernel)]
            extra = self._output_padding
            return layer(x, weight, bias, work.stride, self._padding, extra, work.groups, work.dilation)
        return _PLAIN[len(work.kernel)](x, weight, bias, work.stride, self._padding, work.dilation, work.groups)
