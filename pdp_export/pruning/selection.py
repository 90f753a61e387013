"""Which parameters get a mask, and why the others do not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from pdp_export.errors import UsageError, near_misses
from pdp_export.pruning.masks import BlockMask, ChannelMask, Mask, NMMask, Place, WeightMask
from pdp_export.pruning.methods.base import Method
from pdp_export.pruning.patterns import NM, Block, Unstructured
from pdp_export.results import Skipped

if TYPE_CHECKING:
    from pdp_export.graph.channel_groups import ChannelGroup

_MATRIX = 2  # weights of rank 2 and more are worth a reason when they are left alone


@dataclass(frozen=True)
class Rules:
    """What the user wants left alone.

    `ignore` are regular expressions searched in layer names; `first` and `last` are the names of
    the weights that open and close the network.
    """

    ignore: Sequence[str] = ()
    prune_depthwise: bool = False
    prune_first: bool = False
    prune_last: bool = False
    first: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()

    def refusal(self, weight: str, module: nn.Module) -> str | None:
        """Return why this layer stays dense, or None."""
        layer = layer_of(weight)
        for expression in self.ignore:
            if re.search(expression, layer):
                return f"ignored by {expression!r}"
        if weight in self.first and not self.prune_first:
            return "first layer (prune_first: true to include it)"
        if weight in self.last and not self.prune_last:
            return "produces the output (prune_last: true to include it)"
        if is_depthwise(module) and not self.prune_depthwise:
            return "depthwise convolution (prune_depthwise: true to include it)"
        return None

    def check(self, model: nn.Module) -> None:
        """Raise UsageError for an expression that is no regular expression or matches no layer."""
        layers = [
            name for name, module in model.named_modules() if name and next(module.parameters(False), None) is not None
        ]
        for expression in self.ignore:
            try:
                matched = any(re.search(expression, layer) for layer in layers)
            except re.error as error:
                raise UsageError(
                    f"{expression!r} is not a regular expression: {error}", where="pruning.ignore"
                ) from error
            if not matched:
                raise UsageError(
                    f"{expression!r} matches no layer{near_misses(expression, layers)}",
                    where="pruning.ignore",
                    hint=f"layers are named like {', '.join(layers[:3])}",
                )


def layer_of(parameter: str) -> str:
    """Return the layer's name: the parameter's without its last part."""
    return parameter.rpartition(".")[0]


def is_depthwise(module: nn.Module) -> bool:
    """Tell a convolution with one input channel per filter (and more than one input channel)."""
    return isinstance(module, _ConvNd) and module.groups == module.in_channels > 1


def find_places(model: nn.Module) -> dict[int, list[Place]]:
    """Return every parameter's places by ``id(parameter)``, in definition order; tied ones have several."""
    places: dict[int, list[Place]] = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            places.setdefault(id(parameter), []).append(Place(module, attribute, name))
    return places


def prunable_weights(places: Mapping[int, Sequence[Place]]) -> Iterator[list[Place]]:
    """Yield the places of each weight of a convolution or a linear layer."""
    for owners in places.values():
        if any(_is_weight_of(place, _ConvNd, nn.Linear) for place in owners):
            yield list(owners)


def absorbing_weights(places: Mapping[int, Sequence[Place]]) -> list[str]:
    """Return the weights at which a network starts or ends: prunable ones and embeddings."""
    kinds = (_ConvNd, nn.Linear, nn.Embedding)
    return [place.name for owners in places.values() for place in owners if _is_weight_of(place, *kinds)]


def weight_masks(
    places: Mapping[int, Sequence[Place]], rules: Rules, pattern: Unstructured | NM | Block, method: Method
) -> tuple[list[Mask], list[Skipped]]:
    """Return one mask per prunable weight (tied ones once), and the reasons for the others."""
    masks: list[Mask] = []
    skipped = list(_foreign(places))
    for owners in prunable_weights(places):
        reasons = [reason for place in owners if (reason := rules.refusal(place.name, place.module))]
        reason = reasons[0] if reasons else _cannot_train(owners[0]) or _misfit(owners[0], pattern)
        if reason:
            skipped.append(Skipped(layer=layer_of(owners[0].name), stage="prune", reason=reason))
        else:
            masks.append(_weight_mask(owners, pattern, method))
    return masks, skipped


def _weight_mask(owners: Sequence[Place], pattern: Unstructured | NM | Block, method: Method) -> Mask:
    name = layer_of(owners[0].name) or owners[0].name
    if isinstance(pattern, NM):
        return NMMask(name, pattern.n, pattern.m, owners, method)
    if isinstance(pattern, Block):
        return BlockMask(name, pattern.height, pattern.width, owners, method)
    return WeightMask(name, owners[0].parameter.numel(), owners, method)


def _misfit(place: Place, pattern: Unstructured | NM | Block) -> str | None:
    """Return why the pattern does not divide this weight, or None."""
    if isinstance(place.module, _ConvTransposeNd) and not isinstance(pattern, Unstructured):
        return "transposed convolution: its input channels do not lie along axis 1"
    outputs, inputs = place.parameter.shape[:2]
    if isinstance(pattern, NM) and inputs % pattern.m:
        return f"{inputs} input channels are no multiple of {pattern.m}"
    if isinstance(pattern, Block) and (outputs % pattern.height or inputs % pattern.width):
        return f"{outputs} x {inputs} channels cannot be cut into blocks of {pattern.height} x {pattern.width}"
    if isinstance(pattern, Block) and place.parameter.numel() == pattern.height * pattern.width:
        return f"is a single block of {pattern.height} x {pattern.width}"
    return None


def channel_masks(
    groups: Sequence[ChannelGroup],
    places: Mapping[int, Sequence[Place]],
    rules: Rules,
    align: int,
    method: Method,
) -> tuple[list[ChannelMask], list[Skipped]]:
    """Return one mask per group of tied channels, and the reasons for the groups left alone."""
    by_name = {place.name: list(owners) for owners in places.values() for place in owners}
    masks, skipped = [], []
    for group in groups:
        reason = group.frozen or _group_refusal(group, by_name, rules, align)
        if reason:
            layers = [layer_of(name) for name in group.filters] or [group.name]
            skipped += [Skipped(layer=layer, stage="prune", reason=reason) for layer in layers]
        else:
            filters, followers = ([by_name[name][0] for name in part] for part in (group.filters, group.followers))
            masks.append(ChannelMask(group.name, group.channels, filters, followers, method))
    return masks, skipped


def _group_refusal(
    group: ChannelGroup,
    by_name: Mapping[str, Sequence[Place]],
    rules: Rules,
    align: int,
) -> str | None:
    members = (*group.filters, *group.followers)
    missing = [name for name in members if name not in by_name]
    if missing:
        return f"{missing[0]} is no plain parameter of the model (parametrized already?)"
    tied = [name for name in members if len(by_name[name]) > 1]
    if tied:
        return f"{tied[0]} is shared with {by_name[tied[0]][1].name}; tied channels are not supported"
    rules = replace(rules, prune_depthwise=True)  # depthwise filters follow their input here
    for name in group.filters:
        place = by_name[name][0]
        if reason := rules.refusal(name, place.module) or _cannot_train(place):
            return reason if len(group.filters) == 1 else f"{layer_of(name)}: {reason}"
    if group.channels <= align:
        return f"{group.channels} channels, and align is {align}: there is no whole block to remove"
    return None


def _cannot_train(place: Place) -> str | None:
    if not place.parameter.requires_grad:
        return "frozen (requires_grad is False), so its mask could not be trained"
    if place.parameter.numel() <= 1:
        return "holds a single weight"
    return None


def _foreign(places: Mapping[int, Sequence[Place]]) -> Iterator[Skipped]:
    """Yield weight-like parameters of modules whose weights this pattern does not prune."""
    for owners in places.values():
        place = owners[0]
        if place.parameter.dim() < _MATRIX or any(_is_weight_of(owner, _ConvNd, nn.Linear) for owner in owners):
            continue
        if isinstance(place.module, parametrize.ParametrizationList):
            reason = "parametrized already"
        else:
            reason = f"{place.attribute} of {type(place.module).__name__} is not pruned"
        yield Skipped(layer=layer_of(place.name) or place.name, stage="prune", reason=reason)


def _is_weight_of(place: Place, *kinds: type[nn.Module]) -> bool:
    return place.attribute == "weight" and isinstance(place.module, kinds)
