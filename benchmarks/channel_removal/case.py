"""One masked network, and everything that a variant may need to make it smaller."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.channel_removal import masks, subjects
from pdp_export.removal.simplification import Prepared, prepare


class NotPossibleError(Exception):
    """A variant cannot be made of this network; the text says why."""


@dataclass(frozen=True)
class Case:
    """A network with a mask; `costs` is the folder where measured costs are kept."""

    net: str
    kind: masks.Kind
    ratio: float
    block: int
    costs: Path

    @property
    def name(self) -> str:
        """Return network, mask and ratio, for keys."""
        return f"{self.net}/{self.kind}/{self.ratio:g}"

    @cached_property
    def masked(self) -> nn.Module:
        """The network whose function all variants must compute. Take a `copy` to change it."""
        model = subjects.network(self.net)
        masks.mask(model, self.kind, self.ratio)
        return subjects.calibrate(model)

    def copy(self) -> nn.Module:
        """Return a network of one's own."""
        return copy.deepcopy(self.masked)

    @cached_property
    def images(self) -> tuple[Tensor, Tensor]:
        """Two inputs: the first one is timed, both are compared."""
        return subjects.image(seed=7), subjects.image(seed=8)

    @cached_property
    def expected(self) -> tuple[Tensor, ...]:
        """What the masked network makes of `images`, computed in float64."""
        exact = self.copy().double()
        with torch.no_grad():
            return tuple(exact(value.double()) for value in self.images)

    @cached_property
    def prepared(self) -> Prepared:
        """The captured program with BatchNorm folded, which all of our own plans start from."""
        return prepare(self.masked, self.images[:1], None)
