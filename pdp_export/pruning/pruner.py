"""The Pruner: three calls around anybody's training loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from pdp_export.errors import FileError, UsageError
from pdp_export.pruning.allocation import Budget
from pdp_export.pruning.building import Example, build_masks
from pdp_export.pruning.clock import Clock
from pdp_export.pruning.hardening import harden_masks
from pdp_export.pruning.masks import Mask
from pdp_export.pruning.methods import Preset
from pdp_export.pruning.methods import preset as named_preset
from pdp_export.pruning.patterns import Pattern
from pdp_export.pruning.recipe_arguments import arguments
from pdp_export.pruning.records import HardenReport, MaskStatistics
from pdp_export.pruning.refreshing import Refreshing
from pdp_export.pruning.schedule import Schedule
from pdp_export.pruning.selection import Rules
from pdp_export.pruning.sharding import refuse_sharded
from pdp_export.pruning.statistics import mask_statistics, warnings_from

if TYPE_CHECKING:
    from pdp_export.recipe_pruning import PruningSection

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
        pattern: `Unstructured`, `NM`, `Block` or `Channel`.
        schedule: When to prune; by default the preset's ramp, then `step` needs a progress.
        example_inputs: Positional inputs, required by `Channel` and by budgets. Without them the first
            and the last layer are taken in definition order.
        dynamic: Axes of the inputs that may change, as `graph.capture` takes them.
        ignore: Regular expressions searched in layer names; those layers stay dense.
        preset: A name of `methods.preset`, or a `Preset` of one's own.
        temperature: The constant tau of the preset "paper", in units of w^2.
        allocation: How the sparsity is spread over the layers: "global", "uniform" or "erk", see `Budget`.
        budget: ``{"macs": x}`` or ``{"parameters": x}``: the share of the model's work that may stay; it
            takes the place of the pattern's sparsity and needs example inputs. ``{"cost": x}`` with
            `costs`, the cost of one weight by layer, such as a measured latency.
        costs: See `budget`.
        max_layer_sparsity: No single layer loses more than this share.
        refresh_every: Steps between two refreshes of threshold, gate and slope. None: whenever 0.2 % of the
            run are done, at least every 16 steps; every step for the preset "paper".
        reallocate: Rank the layers against each other until the ramp ends, not only once at its start.
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
        preset: str | Preset = "default",
        temperature: float = 1e-4,
        allocation: str = "global",
        budget: Mapping[str, float] | None = None,
        costs: Mapping[str, float] | None = None,
        max_layer_sparsity: float = 0.98,
        refresh_every: int | None = None,
        reallocate: bool = False,
        prune_depthwise: bool = False,
        prune_first: bool = False,
        prune_last: bool = False,
    ) -> None:
        chosen = preset if isinstance(preset, Preset) else named_preset(preset, temperature)
        self.model, self.pattern, self.method = model, pattern, chosen.method
        self.schedule = schedule or Schedule(ramp=chosen.ramp)
        self.max_layer_sparsity, self.reallocate = max_layer_sparsity, reallocate
        self.refreshing = Refreshing(chosen.refresh_every if refresh_every is None else refresh_every)
        self.clock = Clock(self.schedule)
        self._hardened, self._raw = False, False
        self._seen: dict[str, Tensor] = {}
        program = Example(example_inputs, dynamic).capture(model)
        rules = Rules(tuple(ignore), prune_depthwise, prune_first, prune_last)
        refuse_sharded(model.named_parameters())
        self.masks, self.skipped = build_masks(model, pattern, chosen.method, rules, program)
        self.budget = Budget(
            pattern,
            [mask.size for mask in self.masks],
            max_layer_sparsity,
            method=allocation,
            shapes=[mask.places[0].parameter.shape for mask in self.masks],
            budget=budget,
            costs=costs,
            program=program,
            names=[mask.parameter_names for mask in self.masks],
        )
        self.allocation = repr((allocation, budget, costs))
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
        return cls(model, example_inputs=example_inputs, dynamic=dynamic, **arguments(section))

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0..1."""
        return self.clock.progress

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
        if self._raw:
            raise UsageError(
                "this Pruner has pruned in one shot already", hint="harden, or build a new Pruner to train"
            )
        self.clock.advance(progress)
        if self.clock.share > 0 and self.refreshing.due(self.progress):
            self._check_masks()
            self._refresh(self.clock.share)

    @torch.no_grad()
    def expected(self) -> dict[str, float]:
        """Return the share of each masked parameter that the present weights would lose in the end."""
        counts = self.budget.counts([mask.scores() for mask in self.masks])
        pairs = zip(self.masks, counts, strict=True)
        return {name: count / mask.size for mask, count in pairs for name in mask.parameter_names}

    def refresh(self) -> None:
        """Select thresholds anew from the present weights, at the present progress."""
        self._check_live()
        if self.clock.share > 0:
            self._refresh(self.clock.share)

    def validated(self, metric: float) -> None:
        """Tell the pruner a validation metric; call it after every epoch when warm-up is an `AccuracyRule`."""
        self.clock.validated(metric)

    def one_shot(self) -> None:
        """Prune by the present weights alone; on hardening, kept weights keep their raw values."""
        self._check_live()
        self._raw = True
        self.clock.finish()
        self._refresh(1.0)

    def harden(self) -> HardenReport:
        """Write exact zeros and take the masks off; the model is an ordinary module again.

        The mask is the one that the final weights give, and kept weights become the softly masked
        values that were trained. An unfinished ramp is completed, with a warning; as its masks
        were never trained, kept weights then keep their raw values.

        Raises:
            ProofError: when the zeros written are not the zeros asked for.
        """
        self._check_live()
        finished = self.clock.share >= 1
        warnings = self._complete(finished)
        report = harden_masks(self.masks, warnings, fold=finished and not self._raw)
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
        options = (self.allocation, self.max_layer_sparsity, self.reallocate, self.refreshing.every)
        return repr((self.pattern, self.schedule, self.method, options, names))

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"meta": JSON values, "tensors": {name: Tensor}}``; weights are the model's own state."""
        return {
            "meta": {
                "clock": self.clock.state(),
                "raw": self._raw,
                "refreshing": self.refreshing.state(),
                "targets": {mask.name: mask.target for mask in self.masks},
                "pruned": {mask.name: mask.pruned for mask in self.masks},
            },
            "tensors": {
                f"{mask.name}.{kind}": buffer.detach().clone()
                for mask in self.masks
                for kind, buffer in self._tensors_of(mask).items()
            }
            | {f"{name}.seen": kept for name, kept in self._seen.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned for the same model and pattern.

        Raises:
            FileError: when the state belongs to other masks.
        """
        meta, tensors = state["meta"], state["tensors"]
        if set(meta["targets"]) != {mask.name for mask in self.masks}:
            raise FileError("the pruning state belongs to another model or pattern", where="pruner")
        self.clock.restore(meta["clock"])
        self._raw = meta["raw"]
        self.refreshing.restore(meta["refreshing"])
        for mask in self.masks:
            mask.target, mask.pruned = meta["targets"][mask.name], meta["pruned"][mask.name]
            mask.active = self.clock.share > 0
            for kind, buffer in mask.named_buffers():
                buffer.copy_(tensors[f"{mask.name}.{kind}"])
            mask.hold()
            if not self.refreshing.fresh:
                mask.restore_held({kind: tensors[f"{mask.name}.{kind}"] for kind in mask.held()})
        seen = {mask.name: tensors.get(f"{mask.name}.seen") for mask in self.masks}
        self._seen = {
            mask.name: kept.to(mask.threshold.device) for mask in self.masks if (kept := seen[mask.name]) is not None
        }

    def _tensors_of(self, mask: Mask) -> dict[str, Tensor]:
        """Return what a mask must remember: between refreshes its gate does not follow from the weights."""
        return {**dict(mask.named_buffers()), **({} if self.refreshing.fresh else mask.held())}

    def _check_masks(self) -> None:
        modules = set(self.model.modules())
        for mask in self.masks:
            mask.check_attached(modules)
            refuse_sharded((place.name, place.parameter) for place in mask.places)

    def _refresh(self, share: float) -> None:
        self._allocate(again=self.reallocate and share < 1)
        kappa = self.method.temperature.kappa(self.progress, self.clock.start or 0.0)
        for mask in self.masks:
            mask.refresh(share, kappa)

    @torch.no_grad()
    def _allocate(self, again: bool = False) -> None:
        """Fix every mask's final count, once or `again`."""
        if not (again or any(mask.target is None for mask in self.masks)):
            return
        for mask in self.masks:
            mask.check_finite()
        counts = self.budget.counts([mask.scores() for mask in self.masks])
        for mask, count in zip(self.masks, counts, strict=True):
            mask.target = count

    def _complete(self, finished: bool) -> list[str]:
        """Bring every mask to its final ratio by the present weights; return the warnings."""
        self._check_masks()
        for mask in self.masks:
            mask.check_finite()
        before = self.sparsity
        self._refresh(1.0)
        if finished:
            return [] if self._raw else self.warnings()
        return [
            f"hardened at {100 * self.clock.share:.0f} % of the ramp: {before:.3f} was trained, "
            f"{self.sparsity:.3f} is deployed; train on to progress {self.schedule.ramp_end}"
        ]

    def _check_live(self) -> None:
        if self._hardened:
            raise UsageError("this Pruner has hardened its model already", hint="build a new Pruner to prune further")
