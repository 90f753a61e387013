"""The Pruner: three calls around anybody's training loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pdp_export.errors import FileError, UsageError
from pdp_export.pruning.allocation import Budget
from pdp_export.pruning.hardening import harden_masks
from pdp_export.pruning.masks import Mask
from pdp_export.pruning.patterns import Channel, Pattern, Unstructured, make_pattern
from pdp_export.pruning.records import HardenReport, MaskStatistics
from pdp_export.pruning.roles import first_and_last
from pdp_export.pruning.schedule import Schedule
from pdp_export.pruning.schedule import preset as named_preset
from pdp_export.pruning.selection import Rules, absorbing_weights, channel_masks, find_places, weight_masks
from pdp_export.pruning.statistics import mask_statistics, warnings_from
from pdp_export.results import Skipped

if TYPE_CHECKING:
    from pdp_export.recipe import PruningSection

_log = logging.getLogger(__name__)


class Pruner:
    """Parameter-free differentiable pruning of `model`, in place.

    Building it attaches soft masks that start as exactly 1. Call `step` after every optimizer
    step, and `harden` once at the end::

        pruner = Pruner(model, Unstructured(0.9), Schedule(steps=1000))
        for inputs, target in batches:
            ...
            optimizer.step()
            pruner.step()
        report = pruner.harden()

    Args:
        model: The network; its parameters keep their identity, so the optimizer may exist already.
        pattern: `Unstructured` or `Channel`.
        schedule: When to prune; by default the preset's ramp, then `step` needs a progress.
        example_inputs: Positional inputs, required by `Channel`. Without them the first and the
            last layer of `Unstructured` are taken in definition order.
        dynamic: Axes of the inputs that may change, as `graph.capture` takes them.
        ignore: Regular expressions searched in layer names; those layers stay dense.
        preset: "default" or "paper", see `schedule.preset`.
        temperature: The constant tau of the preset "paper", in units of w^2.
        max_layer_sparsity: No single layer loses more than this share.
        prune_depthwise, prune_first, prune_last: Include layers that stay dense by default.

    Raises:
        UsageError: for a pattern or value that cannot work, or a model with nothing to prune.
        CaptureError: when example inputs are given and the model cannot be captured.
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern,
        schedule: Schedule | None = None,
        example_inputs: tuple[Tensor, ...] | None = None,
        *,
        dynamic: Mapping[int, Mapping[int, str]] | None = None,
        ignore: Sequence[str] = (),
        preset: str = "default",
        temperature: float = 1e-4,
        max_layer_sparsity: float = 0.98,
        prune_depthwise: bool = False,
        prune_first: bool = False,
        prune_last: bool = False,
    ) -> None:
        self.temperature, ramp = named_preset(preset, temperature)
        self.model, self.pattern, self.schedule = model, pattern, schedule or Schedule(ramp=ramp)
        self.max_layer_sparsity = max_layer_sparsity
        self.progress, self._steps, self._hardened = 0.0, 0, False
        self._seen: dict[str, Tensor] = {}
        rules = Rules(tuple(ignore), prune_depthwise, prune_first, prune_last)
        rules.check(model)
        self.masks, skipped = self._select(rules, example_inputs, dynamic)
        self.skipped: tuple[Skipped, ...] = tuple(skipped)
        self.budget = self._budget()
        for mask in self.masks:
            mask.attach()

    @classmethod
    def from_section(
        cls,
        model: nn.Module,
        section: PruningSection,
        example_inputs: tuple[Tensor, ...],
        dynamic: Mapping[int, Mapping[int, str]] | None = None,
    ) -> Self:
        """Build the pruner that a recipe asks for."""
        ramp = section.ramp or named_preset(section.preset, section.temperature)[1]
        return cls(
            model,
            make_pattern(section.pattern, section.sparsity, ties=section.ties, align=section.align),
            Schedule(section.warmup, section.ramp_end, ramp),
            example_inputs,
            dynamic=dynamic,
            ignore=section.ignore,
            preset=section.preset,
            temperature=section.temperature,
            max_layer_sparsity=section.max_layer_sparsity,
            prune_depthwise=section.prune_depthwise,
            prune_first=section.prune_first,
            prune_last=section.prune_last,
        )

    @property
    def sparsity(self) -> float:
        """The share of weights (or channels) below the threshold now, over all masks."""
        return sum(mask.pruned for mask in self.masks) / sum(mask.size for mask in self.masks)

    def step(self, progress: float | None = None) -> None:
        """Move ratio, threshold and temperature on; call it after every optimizer step.

        Args:
            progress: The share of the run that is done, 0..1. None counts calls against
                ``Schedule(steps=...)``.

        Raises:
            UsageError: after `harden`, without any progress, or when a module was changed.
            TrainingStoppedError: when weights that must be ranked hold NaN or Inf.
        """
        self._check_live()
        self._steps += 1
        self.progress = self._progress(progress)
        share = self.schedule.share(self.progress)
        if share > 0:
            self._allocate()
        kappa = self.temperature.kappa(self.progress, self.schedule.warmup)
        for mask in self.masks:
            mask.check_attached()
            mask.refresh(round(share * (mask.target or 0)), self.temperature, kappa)

    def harden(self) -> HardenReport:
        """Write exact zeros and take the masks off; the model is an ordinary module again.

        The mask is the one that the final weights give, and kept weights become the softly masked
        values that were trained. An unfinished ramp is completed, with a warning; as its masks
        were never trained, kept weights then keep their raw values.

        Raises:
            ProofError: when the zeros written are not the zeros asked for.
        """
        self._check_live()
        finished = self.schedule.share(self.progress) >= 1
        warnings = self._complete()
        report = harden_masks(self.masks, warnings, fold=finished)
        self._hardened = True
        for warning in warnings:
            _log.warning(warning)
        return report

    def statistics(self) -> list[MaskStatistics]:
        """Return the state of every mask; churn counts since the last call."""
        rows = []
        for mask in self.masks:
            row, self._seen[mask.name] = mask_statistics(mask, self._seen.get(mask.name))
            rows.append(row)
        return rows

    def warnings(self) -> list[str]:
        """Return what is dangerous about the present masks: softness, and unclipped gradients."""
        return warnings_from([mask_statistics(mask)[0] for mask in self.masks])

    def identity(self) -> str:
        """Return a text that differs between pruners whose states must not be mixed up."""
        names = [(mask.name, mask.size) for mask in self.masks]
        return repr((self.pattern, self.schedule, self.temperature, self.max_layer_sparsity, names))

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"meta": JSON values, "tensors": {name: Tensor}}``; weights are the model's own state."""
        return {
            "meta": {
                "progress": self.progress,
                "steps": self._steps,
                "targets": {mask.name: mask.target for mask in self.masks},
                "pruned": {mask.name: mask.pruned for mask in self.masks},
            },
            "tensors": {
                f"{mask.name}.{kind}": buffer.detach().clone()
                for mask in self.masks
                for kind, buffer in mask.named_buffers()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned for the same model and pattern.

        Raises:
            FileError: when the state belongs to other masks.
        """
        meta, tensors = state["meta"], state["tensors"]
        if set(meta["targets"]) != {mask.name for mask in self.masks}:
            raise FileError("the pruning state belongs to another model or pattern", where="pruner")
        self.progress, self._steps = meta["progress"], meta["steps"]
        for mask in self.masks:
            mask.target, mask.pruned = meta["targets"][mask.name], meta["pruned"][mask.name]
            for kind, buffer in mask.named_buffers():
                buffer.copy_(tensors[f"{mask.name}.{kind}"])

    def _select(
        self,
        rules: Rules,
        example_inputs: tuple[Tensor, ...] | None,
        dynamic: Mapping[int, Mapping[int, str]] | None,
    ) -> tuple[Sequence[Mask], list[Skipped]]:
        program = None if example_inputs is None else _capture(self.model, example_inputs, dynamic)
        places, gain = find_places(self.model), self.temperature.gain
        weights = absorbing_weights(places)
        first, last = first_and_last(program, weights) if program else (weights[:1], weights[-1:])
        rules = replace(rules, first=frozenset(first), last=frozenset(last))
        if isinstance(self.pattern, Unstructured):
            return weight_masks(places, rules, gain)
        if not isinstance(self.pattern, Channel):
            raise UsageError(
                f"the pattern {self.pattern!r} is not supported", where="pattern", hint="use Unstructured or Channel"
            )
        if program is None:
            raise UsageError(
                "Channel needs example_inputs, to find which layers share their channels",
                where="Pruner(example_inputs=...)",
                hint="pass a tuple of input tensors",
            )
        from pdp_export.graph.channel_groups import channel_groups

        return channel_masks(channel_groups(program), places, rules, self.pattern.align, gain)

    def _budget(self) -> Budget:
        if not self.masks:
            reasons = sorted({item.reason for item in self.skipped})
            raise UsageError(
                f"nothing to prune: {'; '.join(reasons) or 'the model has no convolution and no linear layer'}",
                where=f"pattern {type(self.pattern).__name__}",
                hint="relax ignore, prune_first, prune_last or prune_depthwise",
            )
        return Budget(self.pattern, [mask.size for mask in self.masks], self.max_layer_sparsity)

    @torch.no_grad()
    def _allocate(self) -> None:
        """Fix every mask's final count, once."""
        if all(mask.target is not None for mask in self.masks):
            return
        for mask in self.masks:
            mask.check_finite()
        counts = self.budget.counts([mask.scores() for mask in self.masks])
        for mask, count in zip(self.masks, counts, strict=True):
            mask.target = count

    def _complete(self) -> list[str]:
        """Bring every mask to its final ratio; return the warnings."""
        share = self.schedule.share(self.progress)
        unfinished = (
            f"hardened at {100 * share:.0f} % of the ramp: {self.sparsity:.3f} was trained, "
            f"{self.pattern.sparsity} is deployed; train on to progress {self.schedule.ramp_end}"
        )
        self._allocate()
        kappa = self.temperature.kappa(self.progress, self.schedule.warmup)
        for mask in self.masks:
            mask.check_attached()
            mask.refresh(mask.target or 0, self.temperature, kappa)
        return [unfinished] if share < 1 else self.warnings()

    def _progress(self, progress: float | None) -> float:
        if progress is None:
            if self.schedule.steps is None:
                raise UsageError(
                    "step() was called without a progress, and the schedule has no number of steps",
                    where="Pruner.step",
                    hint="call step(done / total), or build Schedule(steps=total)",
                )
            progress = self._steps / self.schedule.steps
        if not 0 <= progress < math.inf:
            raise UsageError(f"progress is {progress}, it must be a share of the run, 0..1", where="Pruner.step")
        return min(1.0, progress)

    def _check_live(self) -> None:
        if self._hardened:
            raise UsageError("this Pruner has hardened its model already", hint="build a new Pruner to prune further")


def _capture(
    model: nn.Module, inputs: tuple[Tensor, ...], dynamic: Mapping[int, Mapping[int, str]] | None
) -> ExportedProgram:
    from pdp_export.graph.capture import capture

    return capture(model, inputs, dynamic)
