"""From model and pattern to masks: which parameters, in which groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.export import ExportedProgram

from pdp_export.errors import UsageError
from pdp_export.pruning.masks import Mask
from pdp_export.pruning.methods.base import Method
from pdp_export.pruning.patterns import NM, Block, Channel, Pattern
from pdp_export.pruning.roles import first_and_last
from pdp_export.pruning.selection import Rules, absorbing_weights, channel_masks, find_places, weight_masks
from pdp_export.results import Skipped


@dataclass(frozen=True)
class Example:
    """What a model is captured with: positional inputs, and their axes that may change."""

    inputs: tuple[Tensor, ...] | None
    dynamic: Mapping[int, Mapping[int, str]] | None = None

    def capture(self, model: nn.Module) -> ExportedProgram | None:
        """Return the captured program, or None without inputs.

        Raises:
            CaptureError: when the model cannot be captured.
        """
        if self.inputs is None:
            return None
        from pdp_export.graph.capture import capture

        return capture(model, self.inputs, self.dynamic)


def build_masks(
    model: nn.Module, pattern: Pattern, method: Method, rules: Rules, program: ExportedProgram | None
) -> tuple[Sequence[Mask], tuple[Skipped, ...]]:
    """Return the masks of a pattern, not attached yet, and the reasons for what is left alone.

    Raises:
        UsageError: for a pattern that needs example inputs, or a model with nothing to prune.
    """
    if not isinstance(pattern, Pattern):
        raise UsageError(
            f"the pattern {pattern!r} is not supported",
            where="pattern",
            hint="use Unstructured, NM, Block or Channel",
        )
    rules.check(model)
    places = find_places(model)
    weights = absorbing_weights(places)
    first, last = first_and_last(program, weights) if program else (weights[:1], weights[-1:])
    rules = replace(rules, first=frozenset(first), last=frozenset(last))
    masks: Sequence[Mask]
    if not isinstance(pattern, Channel):
        masks, skipped = weight_masks(places, rules, pattern, method)
    elif program is None:
        raise UsageError(
            "Channel needs example_inputs, to find which layers share their channels",
            where="Pruner(example_inputs=...)",
            hint="pass a tuple of input tensors",
        )
    else:
        from pdp_export.graph.channel_groups import channel_groups

        masks, skipped = channel_masks(channel_groups(program, pattern.ties), places, rules, pattern.align, method)
    if not masks:
        reasons = sorted({item.reason for item in skipped})
        raise UsageError(
            f"nothing to prune: {'; '.join(reasons) or 'the model has no convolution and no linear layer'}",
            where=f"pattern {type(pattern).__name__}",
            hint=f"{_fitting(pattern)}relax ignore, prune_first, prune_last or prune_depthwise",
        )
    return masks, tuple(skipped)


def _fitting(pattern: Pattern) -> str:
    """Return the start of a hint for patterns that layers must be divisible by."""
    if isinstance(pattern, NM):
        return "choose an m that divides the input channels, or "
    if isinstance(pattern, Block):
        return "choose a block that divides the channels, or "
    return ""
