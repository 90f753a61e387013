"""Masks of single weights: one threshold per layer, or one per N:M group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pdp_export.pruning.masks.base import Mask, Place
from pdp_export.pruning.methods.base import Method, masked_product


class WeightMask(Mask):
    """Masks single weights of one parameter by their magnitude."""

    def scores(self) -> Tensor:
        """Return ``|w|``, shape (n,)."""
        return self.places[0].parameter.detach().float().abs().flatten()

    def scale(self, scores: Tensor) -> Tensor:
        """Return t^2: weights spread from 0 to a few t."""
        del scores
        return self.threshold.square()

    def gate(self) -> Tensor:
        """Return the gate of every weight, flattened."""
        return self.method.gate(self._grouped_weight(), self.threshold, self.tau).flatten()

    def gate_and_slope(self) -> tuple[Tensor, Tensor | None]:
        """Return gate and slope in the parameter's shape."""
        weight, shape = self._grouped_weight(), self.places[0].parameter.shape
        gate = self.method.gate(weight, self.threshold, self.tau)
        slope = self.method.slope(weight, gate, self.threshold, self.tau)
        shaped = gate.reshape(shape)
        return shaped, shaped if slope is gate else None if slope is None else slope.reshape(shape)

    def grouped(self, weight: Tensor) -> Tensor:
        """Return a view against which the threshold broadcasts."""
        return weight

    def keep_for(self, keep: Tensor, parameter: Tensor) -> Tensor:
        """Return the mask in the parameter's shape."""
        return keep.view_as(parameter)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the softly masked weight."""
        return masked_product(weight, self.held_gate, self.held_slope) if self.active else weight

    def _grouped_weight(self) -> Tensor:
        return self.grouped(self.places[0].parameter.detach().float())


class NMMask(WeightMask):
    """Keeps `kept` of every `group` weights along the input channels, each group with its own threshold.

    t is the midpoint between the largest pruned and the smallest kept of a group. While the ratio
    rises, t moves linearly from the midpoint of one count to that of the next. Where the two are equal,
    t is the midpoint below them: all of the equal ones stay in the soft network, and hardening picks
    among them.
    """

    def __init__(self, name: str, kept: int, group: int, places: Sequence[Place], method: Method) -> None:
        self.kept, self.group = kept, group
        self.shape = tuple(places[0].parameter.shape)
        super().__init__(name, places[0].parameter.numel(), places, method)

    def threshold_shape(self) -> tuple[int, ...]:
        """Return (C_out, C_in / m, 1, kernel...)."""
        return (self.shape[0], self.shape[1] // self.group, 1, *self.shape[2:])

    def grouped(self, weight: Tensor) -> Tensor:
        """Return (C_out, C_in / m, m, kernel...)."""
        return torch.unflatten(weight, 1, (-1, self.group))

    def boundary(self, scores: Tensor, share: float) -> Tensor:
        """Return one threshold per group."""
        ordered = self.grouped(scores.view(self.shape)).sort(dim=2).values
        upper, lower = ordered[:, :, 1:], ordered[:, :, :-1]
        middle = torch.where(upper > lower, (upper + lower) / 2, 0)
        steps = torch.cat([torch.zeros_like(ordered[:, :, :1]), middle], dim=2)
        count = share * (self.group - self.kept)
        low = min(int(count), self.group - self.kept)
        high = min(low + 1, self.group - self.kept)
        below, above = (steps[:, :, : index + 1].amax(2, keepdim=True) for index in (low, high))
        return torch.lerp(below, above, count - low)

    def scale(self, scores: Tensor) -> Tensor:
        """Return t^2, or the distance of the two squares around t where it is less and the gate is never exactly 0.

        Relative to t^2 alone a group whose neighbours at the boundary are nearly equal stays soft for ever, and
        training drives groups there.
        """
        square = super().scale(scores)
        if not self.method.has_gap:
            return square
        squares = self.grouped(scores.view(self.shape)).square()
        above = squares.masked_fill(squares < square, torch.inf).amin(2, keepdim=True)
        below = squares.masked_fill(squares >= square, 0).amax(2, keepdim=True)
        return torch.minimum(square, above - below)

    def keep(self) -> Tensor:
        """Return the mask; among equal weights of a group the first ones are pruned."""
        order = self.grouped(self.scores().view(self.shape)).sort(dim=2, stable=True).indices
        rank = torch.empty_like(order).scatter_(2, order, self._positions(order))
        return (rank >= self.pruned * self.group // self.size).flatten()

    @staticmethod
    def _positions(order: Tensor) -> Tensor:
        positions = torch.arange(order.shape[2], device=order.device)
        return positions.view(1, 1, -1, *[1] * (order.dim() - 3)).expand_as(order)
