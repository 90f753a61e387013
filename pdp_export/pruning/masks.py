"""Masks as parametrizations: while attached, reading the parameter gives the softly masked value.

The dense values stay trainable behind it (``module.parametrizations.weight.original`` is the very
Parameter that the optimizer holds), so pruned weights can come back until `harden`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pdp_export.errors import TrainingStoppedError, UsageError
from pdp_export.pruning.schedule import Temperature
from pdp_export.pruning.soft_mask import soft_mask, soft_product
from pdp_export.pruning.threshold import keep_mask, midpoint


@dataclass(frozen=True)
class Place:
    """One attribute of one module that holds a parameter; tied parameters have several places."""

    module: nn.Module
    attribute: str
    name: str

    @property
    def parameter(self) -> nn.Parameter:
        """The dense, trainable values, masked or not."""
        holder, name = self.module, self.attribute
        if parametrize.is_parametrized(self.module, self.attribute):
            holder, name = self.module.get_submodule(f"parametrizations.{self.attribute}"), "original"
        return holder.get_parameter(name)


class Mask(nn.Module):
    """One score vector, one threshold, and the parameters that it masks.

    `size` counts what can be pruned (weights or channels), `target` what will be in the end and
    `pruned` what is now. With ``pruned == 0`` the mask is exactly 1: values pass through untouched.
    """

    threshold: Tensor
    tau: Tensor

    def __init__(self, name: str, size: int, places: Sequence[Place], gain: float | None) -> None:
        super().__init__()
        self.name, self.size, self.places, self.gain = name, size, list(places), gain
        self.target: int | None = None
        self.pruned = 0
        device = self.places[0].parameter.device
        self.register_buffer("threshold", torch.zeros((), device=device), persistent=False)
        self.register_buffer("tau", torch.ones((), device=device), persistent=False)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of all masked parameters, tied ones under each of their names."""
        return tuple(place.name for place in self.places)

    def parameters_masked(self) -> list[nn.Parameter]:
        """Return the dense parameters, tied ones once."""
        return list({id(place.parameter): place.parameter for place in self.places}.values())

    def scores(self) -> Tensor:
        """Return the importance of each weight or channel, shape (size,), float32, not negative."""
        raise NotImplementedError

    def scale(self, scores: Tensor) -> Tensor:
        """Return what tau is relative to, in units of the squared scores: a scalar."""
        raise NotImplementedError

    def keep_for(self, keep: Tensor, parameter: Tensor) -> Tensor:
        """Return the bool mask `keep`, shape (size,), in the shape of `parameter` (or broadcastable)."""
        raise NotImplementedError

    def attach(self) -> None:
        """Register this mask on each of its places."""
        for place in self.places:
            parametrize.register_parametrization(place.module, place.attribute, self)

    def detach(self) -> None:
        """Take the mask off; the parameters keep their identity and their present values."""
        for place in self.places:
            parametrize.remove_parametrizations(place.module, place.attribute, leave_parametrized=False)

    def check_attached(self) -> None:
        """Raise UsageError when somebody replaced the module's weight or took the mask off."""
        for place in self.places:
            chain = getattr(place.module, "parametrizations", {})
            if place.attribute not in chain or chain[place.attribute][0] is not self:
                raise UsageError(
                    f"{place.name} lost its mask: the module was changed after the Pruner was attached",
                    where=place.name,
                    hint="change the model first, then build the Pruner",
                )

    @torch.no_grad()
    def refresh(self, pruned: int, temperature: Temperature, kappa: float) -> None:
        """Set ratio, threshold and temperature from the present weights."""
        self.pruned = pruned
        if pruned:
            scores = self.scores()
            self.threshold.copy_(midpoint(scores, pruned))
            self.tau.copy_(temperature.tau(self.scale(scores), kappa))

    @torch.no_grad()
    def soft(self) -> Tensor:
        """Return the soft mask, shape (size,)."""
        scores = self.scores()
        return soft_mask(scores, self.threshold, self.tau) if self.pruned else torch.ones_like(scores)

    @torch.no_grad()
    def harden(self, fold: bool) -> tuple[Tensor, Tensor]:
        """Write +0.0 over what is pruned, in place; return what is kept, and the factor of each, (size,).

        With `fold` a kept value is multiplied by its soft mask, so that it is the very number that
        was trained: BatchNorm statistics belong to it. Otherwise it keeps its raw value.
        """
        keep = keep_mask(self.scores(), self.pruned)
        factor = keep * self.soft() if fold else keep.float()
        for parameter in self.parameters_masked():
            shaped = self.keep_for(factor, parameter)
            parameter.copy_((parameter.float() * shaped).to(parameter.dtype))
            parameter.masked_fill_(shaped == 0, 0.0).add_(0.0)  # -0.0 and its kin become +0.0
        return keep, factor

    def check_finite(self) -> None:
        """Raise TrainingStoppedError when the weights hold NaN or Inf."""
        for place in self.places:
            if not bool(place.parameter.isfinite().all()):
                raise TrainingStoppedError(
                    "the weights hold NaN or Inf, so they cannot be ranked",
                    where=place.name,
                    hint="start from finite weights, or train with a smaller learning rate",
                )


class WeightMask(Mask):
    """Masks single weights of one parameter by their magnitude."""

    def scores(self) -> Tensor:
        """Return ``|w|``, shape (n,)."""
        return self.places[0].parameter.detach().float().abs().flatten()

    def scale(self, scores: Tensor) -> Tensor:
        """Return t^2: weights spread from 0 to a few t."""
        del scores
        return self.threshold.square()

    def keep_for(self, keep: Tensor, parameter: Tensor) -> Tensor:
        """Return the mask in the parameter's shape."""
        return keep.view_as(parameter)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the softly masked weight."""
        return soft_product(weight, self.threshold, self.tau, self.gain) if self.pruned else weight


class ChannelMask(Mask):
    """Masks axis 0 of all filters and followers of one group of tied channels with one gate.

    The BatchNorm behind a filter undoes any scaling of it, so the gate also scales BatchNorm's
    weight and bias: only then does the soft channel fade, and the hardened one is exactly zero.

    With a clipped gain the gate is constant in the backward pass: each parameter gets m times its
    gradient, and nothing flows into the scores. Behind a BatchNorm nothing else acts on a filter's
    norm, so a gradient through the gate gathers norms at the threshold, where masks stay soft
    (digits, half of the channels, 3 seeds: mean 0.976 with the constant gate, 0.973 through it).
    Without a clip (preset "paper") autograd differentiates the gate.
    """

    gate: Tensor

    def __init__(
        self, name: str, size: int, filters: Sequence[Place], followers: Sequence[Place], gain: float | None
    ) -> None:
        super().__init__(name, size, [*filters, *followers], gain)
        self.filters = [place.parameter for place in filters]
        self.register_buffer("gate", torch.ones(size, device=self.filters[0].device), persistent=False)

    def scores(self) -> Tensor:
        """Return the rms norm of each channel's filter, averaged over the group's filters, (channels,)."""
        norms = [weight.float().flatten(1).norm(dim=1) / weight[0].numel() ** 0.5 for weight in self.filters]
        return torch.stack(norms).mean(0)

    def scale(self, scores: Tensor) -> Tensor:
        """Return a tenth of the standard deviation of s^2.

        The norms of one layer's filters differ by a few per cent only: a tau relative to t^2 leaves
        all of them near m = 1/2, and every activation changes the moment pruning starts.
        """
        return scores.square().std() / 10

    def keep_for(self, keep: Tensor, parameter: Tensor) -> Tensor:
        """Return the mask shaped (channels, 1, ...)."""
        return keep.view(-1, *[1] * (parameter.dim() - 1))

    def forward(self, parameter: Tensor) -> Tensor:
        """Return the parameter with each channel scaled by its gate."""
        if not self.pruned:
            return parameter
        gate = self.gate if self.gain is not None else soft_mask(self.scores(), self.threshold, self.tau)
        return parameter * self.keep_for(gate, parameter).to(parameter.dtype)

    @torch.no_grad()
    def refresh(self, pruned: int, temperature: Temperature, kappa: float) -> None:
        """Set ratio, threshold, temperature and gate from the present filters."""
        super().refresh(pruned, temperature, kappa)
        self.gate.copy_(self.soft())
