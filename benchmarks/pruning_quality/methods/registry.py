"""All methods: how each is built, what it can prune, and the grid on which it is tuned.

Every method is tuned on the same learning rates times two values of its own; a method whose
implementation changes gets a new revision, so that its older rows no longer count. All share the layer
ratios of one global ranking at the end of the dense phase. ST-3 and Feather publish a threshold over all
layers found anew in every step: in older rows (`reallocate`, with rectified too) that gained at most half a
point on the ResNet and cost four to eight on the MobileNet at 0.95, where early layers were emptied.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from benchmarks.pruning_quality.methods.base import Attached, Setting

LEARNING_RATES = (0.1, 0.2)  # 0.05 and 0.4 were tried too, by six and seven methods, and were best for none
_FOLDER = "benchmarks.pruning_quality.methods"
_RAMPS = ({"ramp_end": 0.5}, {"ramp_end": 0.75})
_WEIGHTS = ("unstructured", "N:M")
_ALL = (*_WEIGHTS, "channel")

Family = Literal["dense", "pdp", "rival", "outside"]


@dataclass(frozen=True)
class Entry:
    """One method.

    `factory` is "module:Class" under ``methods/``, `arguments` go to it after model and setting.
    `knobs` are the method's own values to be tuned; `fixed` options hold for every run.
    """

    family: Family
    factory: str
    arguments: tuple[Any, ...] = ()
    patterns: tuple[str, ...] = ("unstructured",)
    knobs: tuple[Mapping[str, Any], ...] = _RAMPS
    fixed: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    revision: int = 1

    def build(self, model: nn.Module, setting: Setting) -> Attached:
        """Attach the method to `model`; the imports happen here, so that a missing tool stops only its own rows."""
        module, _, name = self.factory.partition(":")
        made: Attached = getattr(importlib.import_module(f"{_FOLDER}.{module}"), name)(model, setting, *self.arguments)
        return made

    def prunes(self, pattern: str) -> bool:
        """Tell whether the method knows the pattern ("unstructured", "1:4", "channel")."""
        return ("N:M" if ":" in pattern else pattern) in self.patterns

    def grid(self) -> list[dict[str, Any]]:
        """Return the hyper-parameters that are tried: learning rates times knobs."""
        return [{"lr": lr, **self.fixed, **knob} for lr in LEARNING_RATES for knob in self.knobs]


def _preset(family: Family, name: str, **changes: Any) -> Entry:
    settings: dict[str, Any] = {"patterns": _ALL, "revision": 2} | changes
    return Entry(family, "presets:Preset", (name,), **settings)


def _torch_pruning(importance: str, **fixed: Any) -> Entry:
    return Entry(
        "outside",
        "outside_torch_pruning:TorchPruning",
        (importance,),
        ("channel",),
        ({"cuts": 1}, {"cuts": 10}),
        {"ramp_end": 0.5, **fixed},
        "torch-pruning",
    )


METHODS: dict[str, Entry] = {
    "dense": Entry("dense", "base:Dense", patterns=("dense",), knobs=({},)),
    "pdp_default": _preset("pdp", "default"),
    "pdp_paper": _preset("pdp", "paper", knobs=({"temperature": 1e-4}, {"temperature": 1e-3}), fixed={"ramp_end": 0.8}),
    "pdp_rectified": _preset("pdp", "rectified", revision=4),
    "gradual": _preset("rival", "gradual"),
    "straight_through": _preset("rival", "straight_through"),
    "st3": _preset(
        "rival",
        "st3",
        knobs=({"rescale": True}, {"rescale": False}),  # as published, and without: it ruins small MobileNets
        fixed={"ramp_end": 0.5},
        revision=4,
    ),
    "feather": _preset("rival", "feather", revision=3),
    "str": Entry(
        "rival",
        "soft_threshold:SoftThresholdReparameterisation",
        knobs=({"start": -5.0}, {"start": -3.5}),
        fixed={"ramp_end": 0.6},
    ),
    "acdc": Entry("rival", "alternating:AlternatingPhases", knobs=({"phase_epochs": 1}, {"phase_epochs": 2})),
    "one_shot": Entry("rival", "one_shot:OneShot", knobs=({"at": 0.0}, {"at": 0.4})),
    "sr_ste": Entry("rival", "sparse_refined:SparseRefined", patterns=("N:M",), knobs=({"pull": 2e-4}, {"pull": 2e-3})),
    "coremltools_magnitude": Entry(
        "outside",
        "outside_coremltools:CoremltoolsMagnitude",
        patterns=_WEIGHTS,
        knobs=({"layers": "uniform"}, {"layers": "global"}),
        fixed={"ramp_end": 0.75},
        package="coremltools",
    ),
    "torch_pruning_bn": _torch_pruning("bn", reg=1e-4),
}
