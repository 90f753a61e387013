"""Masks of groups of weights that live and die together: blocks and channels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from pdp_export.pruning.masks.base import Mask, Place
from pdp_export.pruning.methods.base import Method, masked_product


class GroupMask(Mask):
    """One gate per group; its score is a norm of the group's weights.

    The gate is constant in the backward pass: each parameter gets the method's slope times its
    gradient, and nothing flows into the scores. Behind a BatchNorm nothing else acts on a filter's
    norm, so a gradient through the gate gathers norms at the threshold, where masks stay soft
    (digits, half of the channels, 3 seeds: mean 0.976 with the constant gate, 0.973 through it).
    The preset "paper" lets autograd differentiate the gate.
    """

    def scale(self, scores: Tensor) -> Tensor:
        """Return a tenth of the standard deviation of s^2, or t^2 where scores count from the smallest.

        The norms of one layer's filters differ by a few per cent only: a tau relative to t^2 leaves
        all of them near m = 1/2, and every activation changes the moment pruning starts.
        """
        if self.method.from_smallest:
            return (self.threshold - self._base(scores)).square()
        return scores.square().std() / 10

    def gate(self) -> Tensor:
        """Return the gate of each group."""
        scores = self.scores()
        base = self._base(scores.detach())
        return self.method.gate(scores - base, self.threshold - base, self.tau)

    def gate_and_slope(self) -> tuple[Tensor, Tensor | None]:
        """Return gate and slope of each group, shape (size,)."""
        gate = self.soft()
        return gate, self.method.group_slope(gate)

    def _base(self, scores: Tensor) -> Tensor:
        """Return what scores are counted from, at most t, which is 0 where the smallest scores are equal."""
        if self.method.from_smallest:
            return torch.minimum(scores.amin(), self.threshold)
        return torch.zeros_like(self.threshold)

    def forward(self, parameter: Tensor) -> Tensor:
        """Return the parameter with each group scaled by its gate."""
        if not self.active:
            return parameter
        if self.method.differentiates_groups:
            return parameter * self.keep_for(self.gate(), parameter).to(parameter.dtype)
        gate = self.held_for(self.held_gate, parameter)
        slope = self.held_slope
        if slope is not None:
            slope = gate if slope is self.held_gate else self.held_for(slope, parameter)
        return masked_product(parameter, gate, slope)

    @abstractmethod
    def held_for(self, held: Tensor, parameter: Tensor) -> Tensor:
        """Return a held tensor so that it broadcasts against the parameter."""


class BlockMask(GroupMask):
    """Masks blocks of `height` output by `width` input channels, each kernel position for itself."""

    def __init__(self, name: str, height: int, width: int, places: Sequence[Place], method: Method) -> None:
        self.height, self.width = height, width
        super().__init__(name, places[0].parameter.numel() // (height * width), places, method)

    def scores(self) -> Tensor:
        """Return the rms of each block."""
        weight = self.places[0].parameter.float()
        blocks = torch.unflatten(torch.unflatten(weight, 1, (-1, self.width)), 0, (-1, self.height))
        norms: Tensor = torch.linalg.vector_norm(blocks, dim=(1, 3))
        return norms.flatten() / math.sqrt(self.height * self.width)

    def keep_for(self, keep: Tensor, parameter: Tensor) -> Tensor:
        """Return the mask in the parameter's shape."""
        shape = (parameter.shape[0] // self.height, parameter.shape[1] // self.width, *parameter.shape[2:])
        rows = keep.view(shape).repeat_interleave(self.height, dim=0)
        return rows.repeat_interleave(self.width, dim=1)

    def gate_and_slope(self) -> tuple[Tensor, Tensor | None]:
        """Return gate and slope in the parameter's shape, spread once for many steps."""
        gate, slope = super().gate_and_slope()
        weight = self.places[0].parameter
        spread = self.keep_for(gate, weight)
        return spread, spread if slope is gate else None if slope is None else self.keep_for(slope, weight)

    def held_for(self, held: Tensor, parameter: Tensor) -> Tensor:
        """Return a held tensor, which has the parameter's shape already."""
        del parameter
        return held


class ChannelMask(GroupMask):
    """Masks axis 0 of all filters and followers of one group of tied channels.

    The BatchNorm behind a filter undoes any scaling of it, so the gate also scales BatchNorm's
    weight and bias: only then does the soft channel fade, and the hardened one is exactly zero.
    """

    def __init__(
        self, name: str, size: int, filters: Sequence[Place], followers: Sequence[Place], method: Method
    ) -> None:
        super().__init__(name, size, [*filters, *followers], method)
        self.filters = list(filters)

    def scores(self) -> Tensor:
        """Return the rms norm of each channel's filter, averaged over the group's filters, (channels,)."""
        weights = [place.parameter.float() for place in self.filters]
        norms = [weight.flatten(1).norm(dim=1) / weight[0].numel() ** 0.5 for weight in weights]
        return torch.stack(norms).mean(0)

    def keep_for(self, keep: Tensor, parameter: Tensor) -> Tensor:
        """Return the mask shaped (channels, 1, ...)."""
        return keep.view(-1, *[1] * (parameter.dim() - 1))

    def held_for(self, held: Tensor, parameter: Tensor) -> Tensor:
        """Return a held tensor shaped (channels, 1, ...)."""
        return self.keep_for(held, parameter)
