"""Masks as parametrizations: while attached, reading the parameter gives the softly masked value.

The dense values stay trainable behind it (``module.parametrizations.weight.original`` is the very
Parameter that the optimizer holds), so pruned weights can come back until `harden`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pdp_export.errors import TrainingStoppedError, UsageError
from pdp_export.pruning.methods.base import Method
from pdp_export.pruning.methods.temperature import TINY
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


class Mask(nn.Module, ABC):
    """One score vector, its threshold, and the parameters that it masks.

    `size` counts what can be pruned (weights, blocks or channels), `target` what will be in the end
    and `pruned` what is now. Until it is `active` the mask is exactly 1: values pass untouched. Gate
    and slope are held from one refresh to the next, which makes a step two passes over the weights.
    """

    threshold: Tensor
    tau: Tensor
    held_gate: Tensor
    held_slope: Tensor | None

    def __init__(self, name: str, size: int, places: Sequence[Place], method: Method) -> None:
        super().__init__()
        self.name, self.size, self.places, self.method = name, size, list(places), method
        self.target: int | None = None
        self.pruned, self.active = 0, False
        shape, device = self.threshold_shape(), self.places[0].parameter.device
        self.register_buffer("threshold", torch.zeros(shape, device=device), persistent=False)
        self.register_buffer("tau", torch.ones(shape, device=device), persistent=False)
        # No buffers: DDP would send them to every rank in every step, and each rank computes the same ones.
        self.held_gate = self.held_slope = torch.ones((), device=device)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of all masked parameters, tied ones under each of their names."""
        return tuple(place.name for place in self.places)

    def parameters_masked(self) -> list[nn.Parameter]:
        """Return the dense parameters, tied ones once."""
        return list({id(place.parameter): place.parameter for place in self.places}.values())

    def threshold_shape(self) -> tuple[int, ...]:
        """Return the shape of threshold and tau: () for one of each."""
        return ()

    @abstractmethod
    def scores(self) -> Tensor:
        """Return the importance of each unit, shape (size,), float32, not negative."""

    @abstractmethod
    def scale(self, scores: Tensor) -> Tensor:
        """Return what tau is relative to, in units of the squared scores, shaped like the threshold."""

    @abstractmethod
    def gate(self) -> Tensor:
        """Return the factor of each unit by the present weights, shape (size,)."""

    @abstractmethod
    def gate_and_slope(self) -> tuple[Tensor, Tensor | None]:
        """Return what the present weights and gradients are multiplied by, as `forward` takes it."""

    @abstractmethod
    def keep_for(self, keep: Tensor, parameter: Tensor) -> Tensor:
        """Return `keep`, shape (size,), in the shape of `parameter`."""

    def boundary(self, scores: Tensor, share: float) -> Tensor:
        """Return the threshold at this share of the final ratio."""
        del share
        return midpoint(scores, self.pruned)

    def keep(self) -> Tensor:
        """Return which units stay, bool of shape (size,), exactly `pruned` of them False."""
        return keep_mask(self.scores(), self.pruned)

    def attach(self) -> None:
        """Register this mask on each of its places; hooks on the parameters (such as those of DDP) stay."""
        for place in self.places:
            parameter = place.parameter
            # torch cuts what it registers off from its hooks, so it is given a stand-in.
            setattr(place.module, place.attribute, nn.Parameter(parameter.detach(), parameter.requires_grad))
            parametrize.register_parametrization(place.module, place.attribute, self)
            place.module.get_submodule(f"parametrizations.{place.attribute}").original = parameter

    def detach(self) -> None:
        """Take the mask off; the parameters keep their identity and their present values."""
        for place in self.places:
            _own_class(place.module)
            parametrize.remove_parametrizations(place.module, place.attribute, leave_parametrized=False)

    def check_attached(self, modules: Container[nn.Module]) -> None:
        """Raise UsageError when somebody took the mask off, or replaced the weight or its module among `modules`."""
        for place in self.places:
            chain = getattr(place.module, "parametrizations", {}) if place.module in modules else {}
            if place.attribute not in chain or chain[place.attribute][0] is not self:
                raise UsageError(
                    f"{place.name} lost its mask: the module was changed after the Pruner was attached",
                    where=place.name,
                    hint="change the model first, then build the Pruner",
                )

    @torch.no_grad()
    def refresh(self, share: float, kappa: float) -> None:
        """Set ratio, threshold and temperature from the present weights.

        `share` is the share of the final ratio, 0..1; `kappa` the relative (or constant) temperature.
        """
        self.pruned = round(share * (self.target or 0))
        self.active = share > 0  # all masks at once, since each change compiles a compiled model anew
        if self.pruned:
            scores = self.scores()
            if not bool(scores.sum().isfinite()):
                self.check_finite()
            self.threshold.copy_(self.boundary(scores, share))
            self.tau.copy_(self.method.temperature.tau(self.scale(scores), kappa))
        else:
            self.threshold.zero_()
            self.tau.fill_(TINY)  # with t = 0 every gate is exactly 1
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Hold gate and slope of the present weights until the next refresh."""
        gate, slope = self.gate_and_slope()
        self.held_gate = _put(gate, self.held_gate)
        if slope is gate:
            self.held_slope = self.held_gate
        else:
            own = None if self.held_slope is self.held_gate else self.held_slope
            self.held_slope = None if slope is None else _put(slope, own)

    def held(self) -> dict[str, Tensor]:
        """Return the held gate and slope by name; a slope only where it has memory of its own."""
        slope = {} if self.held_slope is None or self.held_slope is self.held_gate else {"slope": self.held_slope}
        return {"gate": self.held_gate, **slope}

    def restore_held(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `held` returned, over what `hold` gave for other weights."""
        for name, value in self.held().items():
            value.copy_(tensors[name])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to another device, but never to another precision: masks are float32."""
        del recurse
        device, same = fn(self.threshold).device, self.held_slope is self.held_gate
        self.threshold, self.tau = self.threshold.to(device), self.tau.to(device)
        self.held_gate = self.held_gate.to(device)
        if self.held_slope is not None:
            self.held_slope = self.held_gate if same else self.held_slope.to(device)
        return self

    @torch.no_grad()
    def soft(self) -> Tensor:
        """Return the factor of each unit, shape (size,); ones while nothing is pruned."""
        return self.gate() if self.pruned else torch.ones_like(self.scores())

    @torch.no_grad()
    def harden(self, fold: bool) -> tuple[Tensor, Tensor]:
        """Write +0.0 over what is pruned, in place; return what is kept, and the factor of each, (size,).

        With `fold` a kept value is multiplied by its gate, so that it is the very number that
        was trained: BatchNorm statistics belong to it. Otherwise it keeps its raw value.
        """
        keep = self.keep()
        factor = keep * self.soft() if fold else keep.float()
        for parameter in self.parameters_masked():
            shaped = self.keep_for(factor, parameter)
            if fold:
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


def _put(value: Tensor, place: Tensor | None) -> Tensor:
    """Copy `value` into `place` where it fits: a tensor that stays the same needs no new compilation."""
    if place is None or (place.shape, place.dtype, place.device) != (value.shape, value.dtype, value.device):
        return value.clone()
    return place.copy_(value)


def _own_class(module: nn.Module) -> None:
    """Part a module from the class that torch made for its parametrizations, which deep copies of it share.

    Taking the mask off deletes the property from that class: it would vanish from the copies too.
    """
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
