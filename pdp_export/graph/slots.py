"""Slots: one name for every channel that must live or die as a whole, wherever it flows.

A convolution opens one slot per filter. Element-wise operations give their result the slots of their
operands and unite the slots that meet (a residual join). A slot that meets something without a rule
is frozen, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

Ids = NDArray[np.int64]
Role = Literal["filter", "follower", "consumer", "grouped"]
Ties = Literal["stream", "free"]
"""What a residual join does: unite all branches of a stream, or let them disagree."""


@dataclass(frozen=True)
class Channels:
    """What one tensor carries along its channel axis.

    `slots` holds one id per index of `axis`; an id may repeat (a flattened channel). If the tensor
    only rearranges another one, `index[i]` is where entry i comes from in `source`. If it went through
    several axes (a channel shuffle), `origin` and `order` say what one gather would do instead.
    """

    axis: int
    slots: Ids
    source: Node | None = None
    index: Ids | None = None
    origin: Node | None = None
    order: Ids | None = None


@dataclass(frozen=True)
class SplitChannels:
    """Channels along several axes of a tensor at once: heads and their entries, groups of a shuffle.

    `slots` has one axis per entry of `axes` (ascending); entry i of them is entry ``order[i]`` of
    `origin`, the last tensor that had these channels along one axis (None: no such tensor).
    """

    axes: tuple[int, ...]
    slots: Ids
    origin: Node | None = None
    order: Ids | None = None


@dataclass(frozen=True)
class Use:
    """One axis of a stored tensor (weight, bias, BatchNorm statistic) whose entries belong to slots.

    `filter`: the axis that makes the channels. `follower`: per-channel numbers that go along.
    `consumer`: the axis that reads the channels. `grouped`: the same for a layer of several groups,
    whose axis is shorter than its channels: each group has its own.
    """

    tensor: str
    axis: int
    slots: Ids
    role: Role
    node: Node


@dataclass(frozen=True)
class Join:
    """Where a branch ends: `source` brings `slots` into `node`, and a stream of its own begins there."""

    node: Node
    source: Node
    slots: Ids


@dataclass(frozen=True)
class Contraction:
    """A product of two tensors that sums over their channels: two constants there make a third."""

    node: Node
    first: Node
    second: Node


class SlotTable:
    """A union-find over slots, with the reasons why some are frozen."""

    def __init__(self) -> None:
        self._parents: Ids = np.zeros(0, dtype=np.int64)
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def open(self, count: int) -> Ids:
        """Return `count` new slots."""
        new = np.arange(len(self._parents), len(self._parents) + count, dtype=np.int64)
        self._parents = np.concatenate([self._parents, new])
        return new

    def unite(self, first: Ids, second: Ids) -> None:
        """Make the slots one, position by position."""
        for a, b in zip(self.roots(first).ravel(), self.roots(second).ravel(), strict=True):
            low, high = sorted((self._root(int(a)), self._root(int(b))))
            self._parents[high] = low

    def freeze(self, slots: Ids, reason: str) -> None:
        """Forbid the removal of these slots; the first reason is the one that is told."""
        for slot in slots.ravel():
            self._reasons.setdefault(int(slot), reason)

    def roots(self, slots: Ids | None = None) -> Ids:
        """Return the representative of each slot, of all of them by default."""
        parents = self._parents
        while True:
            above = parents[parents]
            if np.array_equal(above, parents):
                break
            parents = above
        self._parents = parents
        return parents if slots is None else parents[slots]

    def frozen(self) -> dict[int, str]:
        """Return the reason for every frozen representative."""
        roots = self.roots()
        reasons: dict[int, str] = {}
        for slot, reason in self._reasons.items():
            reasons.setdefault(int(roots[slot]), reason)
        return reasons

    def _root(self, slot: int) -> int:
        while self._parents[slot] != slot:
            slot = int(self._parents[slot])
        return slot


def as_ids(values: Any) -> Ids:
    """Return an int64 array of slots or indices."""
    return np.asarray(values, dtype=np.int64)
